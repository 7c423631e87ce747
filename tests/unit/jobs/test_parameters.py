"""What a job was made with, read off its call."""

from __future__ import annotations

from functools import partial

from motet.jobs import Script
from motet.jobs.parameters import options_of, parameters_of


def train(width: int = 1, lr: float = 0.1) -> None:
    """Stand for a job."""


def test_partials_keywords_are_parameters_and_the_outer_one_wins() -> None:
    assert parameters_of(partial(partial(train, width=8, lr=0.1), lr=0.2)) == {"width": 8, "lr": 0.2}


def test_a_plain_function_shows_nothing() -> None:
    assert parameters_of(train) == {}


def test_options_of_a_script_are_parameters() -> None:
    words = ["--lr", "-0.5", "--width=8", "--flag", "--sizes", "1", "2", "data.csv", "--name", "a b", "-v", "--last"]
    assert parameters_of(Script("train.py", words)) == {
        "lr": "-0.5",
        "width": "8",
        "flag": True,
        "sizes": "1 2 data.csv",
        "name": "a b",
        "v": True,
        "last": True,
    }


def test_words_without_an_option_are_left_out() -> None:
    assert options_of(["train.csv", "--", "-", "--lr", "1"]) == {"lr": "1"}
