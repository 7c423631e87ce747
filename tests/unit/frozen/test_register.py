"""Who holds the same, who writes it to a file, and what that saves."""

from __future__ import annotations

import pytest

from motet.frozen.notices import SavingNotices, saved_text
from motet.frozen.register import Register, Saving

HELD = {"x": 100, "y": 20}


def two_share() -> Register:
    register = Register()
    assert register.claim("a", HELD).write == []
    answer = register.claim("b", {**HELD, "z": 5})
    assert sorted(answer.write) == ["x", "y"]
    assert register.wrote("b", answer.number, ["x", "y"]) == {"a": ["x", "y"], "b": ["x", "y"]}
    for job in ("a", "b"):
        register.shares(job, ["x", "y"])
    return register


def test_the_second_writes_and_both_share() -> None:
    register = two_share()
    assert register.saving() == Saving(2, 120, 120)
    answer = register.claim("c", {"x": 100})
    assert (answer.share, answer.write) == ({1: ["x"]}, [])
    register.shares("c", ["x"])
    assert register.saving() == Saving(3, 120, 220)
    assert [register.shared_bytes(job) for job in "abc"] == [120, 120, 100]


def test_nobody_else_writes_what_is_being_written() -> None:
    register = Register()
    register.claim("a", HELD)
    assert register.claim("b", HELD).write
    assert not register.claim("c", HELD).write
    register.ended("b")  # before it has written
    assert register.claim("d", HELD).write


def test_another_writes_what_a_job_that_has_ended_was_asked_for() -> None:
    register = Register()
    for job in "abc":
        register.claim(job, HELD)
    assert register.unwritten() == {}
    register.ended("b")
    answers = register.unwritten()
    assert {job: sorted(answer.write) for job, answer in answers.items()} == {"a": ["x", "y"]}
    assert register.unwritten() == {}
    register.owns("a", ["x"])
    assert register.unwritten() == {}, "c alone holds it"
    assert register.wrote("a", answers["a"].number, ["x", "y"]) == {"a": ["y"], "c": ["y"]}


def test_each_file_that_a_job_writes_is_for_what_it_was_asked_for() -> None:
    register = Register()
    register.claim("a", HELD)
    first = register.claim("b", {"x": 100})
    second = register.claim("b", HELD)
    assert (first.write, second.write) == (["x"], ["y"])
    register.wrote("b", first.number, ["x"])
    assert register.unwritten() == {}, "b still writes y"
    assert not register.claim("c", HELD).write
    assert sorted(register.wrote("b", second.number, ["x", "y"])["a"]) == ["y"]
    assert register.uses(first.number)
    assert register.uses(second.number)


def test_a_file_goes_with_the_last_that_uses_it() -> None:
    register = two_share()
    assert register.owns("a", ["x", "y"]) == []
    assert register.saving() == Saving(0, 0, 0)
    assert register.most_shared_bytes("a") == 120
    assert register.ended("b") == [1]


def test_what_was_written_in_vain_is_forgotten() -> None:
    register = Register()
    register.claim("a", HELD)
    number = register.claim("b", HELD).number
    register.ended("a")
    register.owns("b", HELD)
    assert register.wrote("b", number, ["x"]) == {}
    assert not register.uses(number)
    register.shares("b", ["x"])
    assert register.saving() == Saving(0, 0, 0)


def test_each_saving_is_reported_once() -> None:
    reported: list[str] = []
    notices, register = SavingNotices(lambda job, text: reported.append(text)), two_share()
    notices.notify(register)
    notices.notify(register)
    assert reported == ["2 jobs share 120 B of frozen weights: 120 B saved"]
    for job in "ab":
        register.keeps(job, {"mapped": 1_000_000})
    notices.notify(register)
    assert reported[1].startswith(
        "2 jobs hold 1.0 MB of equal frozen weights, which lie in memory that is not torch's own"
    )


@pytest.mark.parametrize(
    ("saving", "text"),
    [(Saving(3, 400_000_000, 800_000_000), "3 jobs share 400 MB of frozen weights: 800 MB saved")],
)
def test_the_line(saving: Saving, text: str) -> None:
    assert saved_text(saving) == text
