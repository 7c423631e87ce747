from __future__ import annotations

from motet.suggest import did_you_mean, nearest, shown


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert nearest("trun", ["turns", "call", "with"]) == "turns"
    assert nearest("GPT", ["conv", "gpt"]) == "gpt"
    assert nearest("zebra", ["turns", "call"]) is None
    assert nearest("x", []) is None


def test_without_a_near_name_the_known_ones_are_listed_if_they_are_few() -> None:
    assert did_you_mean("trun", ["turns", "call"]) == "; did you mean 'turns'?"
    assert did_you_mean("zebra", ["turns", "call"]) == "; known: turns, call"
    assert did_you_mean("zebra", []) == ""
    assert did_you_mean("zebra", [f"name{i}" for i in range(50)]) == ""


def test_values_are_shown_on_one_short_line() -> None:
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 10_000_000)) <= 60
    assert len(shown(list(range(1000)))) <= 60
