"""A job that gives up its turn ends as ever; others compute meanwhile; workers that disagree are found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from motet.testing import Gang

JOBS = "tests.distributed.jobs_yielding"
GANG_ERRORS = {"DivergenceError", "GangError", "WorkerFailedError", "WorkerLostError", "SyncTimeoutError"}


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_turns_given_up_change_nothing_but_the_order(gangs: Callable[[int], Gang], num_workers: int) -> None:
    reports = gangs(num_workers).run(f"{JOBS}:two_that_yield")
    for worker in reports:
        assert all(worker["given_up"])
        assert len(worker["given_up"]) == 14  # twice in each of four steps, three times in each of two evaluations
        assert worker["turns"] == 4, "a turn that was given up is no turn of its own"
        assert worker["taken"] == reports[0]["taken"]
        assert worker["taken"][:6] == ["one", "other"] * 3


def test_nothing_happens_where_a_turn_cannot_end(gangs: Callable[[int], Gang]) -> None:
    for answers in gangs(2).run(f"{JOBS}:where_it_cannot"):
        assert answers == [False, False, False, True]


@pytest.mark.parametrize("width", [3, 512])  # of 512, gradients queue for the link
def test_workers_that_disagree_are_found(new_gang: Callable[[int], Gang], width: int) -> None:
    for outcome in new_gang(2).attempt(f"{JOBS}:yields_on_worker_0_alone", width):
        assert outcome.kind in GANG_ERRORS or outcome.status == 4
        assert outcome.seconds < 60
