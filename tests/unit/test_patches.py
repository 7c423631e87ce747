"""What is patched stands in a table whose every row has somebody who answers, and is as it was afterwards."""

from __future__ import annotations

import os
import sys
import time
import types
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from motet import patches, patching
from motet.intercept.ddp import JobSeams
from motet.patches import DURING_A_RUN, IN_A_JOBS_PROCESS, Patch
from motet.processes.waits import BlockingCalls


@pytest.mark.parametrize("patch", DURING_A_RUN, ids=lambda patch: patch.where)
def test_the_seams_answer_for_what_is_patched_during_a_run(patch: Patch) -> None:
    assert patch.instead or callable(getattr(JobSeams, patch.answer))


@pytest.mark.parametrize("patch", IN_A_JOBS_PROCESS, ids=lambda patch: patch.where)
def test_the_waits_answer_for_what_is_patched_in_a_jobs_process(patch: Patch) -> None:
    assert callable(getattr(BlockingCalls, patch.answer))


@pytest.mark.parametrize("table", ["DURING_A_RUN", "IN_A_JOBS_PROCESS"])
def test_nothing_is_patched_twice(table: str) -> None:
    places = [patch.where for patch in getattr(patches, table)]
    assert len(set(places)) == len(places)


class Answers:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def passed(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.asked.append(original.__name__)
        return original(*args, **kwargs)

    def refuse(self, what: str, instead: str) -> None:
        raise NotImplementedError(f"{what}: {instead}")


TABLE = (
    Patch("statistics:median", "passed", "written in Python"),
    Patch("os:getppid", "passed", "written in C"),
    Patch("fractions:Fraction.limit_denominator", "passed", "a method"),
    Patch("statistics:fmean", "fmean", "refused", "use mean"),
    Patch("statistics:not_there", "passed", "of a later version", optional=True),
)


def test_a_table_is_in_place_for_the_length_of_a_block() -> None:
    from statistics import fmean, median  # before: as a program does that imports torch long before a run

    before = [median.__code__, fmean.__code__, os.getppid, vars(Fraction)["limit_denominator"]]
    answers = Answers()
    with patching.in_place(TABLE, answers):
        assert patching.is_in_place()
        assert median([3, 1, 2]) == 2
        assert os.getppid() > 0
        assert Fraction("0.34").limit_denominator(3) == Fraction(1, 3)
        with pytest.raises(NotImplementedError, match="fmean: use mean"):
            fmean([1.0])
    assert answers.asked == ["median", "getppid", "limit_denominator"]
    assert [median.__code__, fmean.__code__, os.getppid, vars(Fraction)["limit_denominator"]] == before
    assert not patching.is_in_place()
    assert fmean([1.0]) == 1.0


def test_what_has_to_be_there_and_is_not_is_named() -> None:
    missing = Patch("statistics:not_there", "passed", "required")
    with pytest.raises(AssertionError, match="statistics:not_there"), patching.in_place((missing,), Answers()):
        pass
    assert not patching.is_in_place()


def test_names_are_replaced_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("motet_patched_here")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    class Waiter:
        def wait(self, seconds: float) -> str:
            return f"waited {seconds}"

    def length(text: str) -> int:
        return len(text)

    vars(module).update(sleep=time.sleep, Waiter=Waiter, length=length)
    answers = Answers()
    table = (
        Patch("motet_patched_here:sleep", "passed", "in C"),
        Patch("motet_patched_here:Waiter.wait", "passed", "a method"),
        Patch("motet_patched_here:length", "passed", "a function", eager=True),
    )
    eager: list[str] = []

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        eager.append(function.__name__)
        return function

    patching.replace_names(table, answers, eager=mark)
    module.sleep(0)
    assert Waiter().wait(2.0) == "waited 2.0"
    assert module.length("abc") == 3
    assert answers.asked == ["sleep", "wait", "length"]
    assert eager == ["length"]
