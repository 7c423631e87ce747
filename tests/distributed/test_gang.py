"""The gang itself: results by worker, errors with their tracebacks, hangs with their stacks, and a fresh start."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from motet.testing import Gang, GangCallError

NewGang = Callable[[int], Gang]


def test_results_come_by_worker(gangs: NewGang) -> None:
    gang = gangs(3)
    pids = gang.run("os:getpid")
    assert pids == gang.pids
    assert len(set(pids)) == 3
    assert gang.run("os:getpid") == pids, "the workers stay"
    assert gang.run(os.getenv, "WORLD_SIZE") == ["3"] * 3


def test_workers_are_joined_or_left_to_themselves(gangs: NewGang) -> None:
    assert gangs(2).run("torch.distributed:get_world_size") == [2, 2]
    with Gang(2, joined=False) as gang:
        assert gang.run("torch.distributed:is_initialized") == [False, False]
        reports = gang.run("tests.distributed.jobs_saving:without_a_place")
        assert [worker["jobs"]["saves"][:2] for worker in reports] == [("finished", 24)] * 2, "a run joins them"


def test_an_exception_is_reported_with_its_traceback_and_the_gang_starts_anew(new_gang: NewGang) -> None:
    gang = new_gang(2)
    with pytest.raises(GangCallError, match=r"worker 0 Traceback[\s\S]*FileNotFoundError[\s\S]*worker 1 Traceback"):
        gang.run("os:stat", "/does/not/exist")
    pids = gang.pids
    assert gang.run("os:getpid") != pids


def test_a_death_is_reported_with_its_signal(new_gang: NewGang) -> None:
    gang = new_gang(2)
    outcomes = gang.attempt("signal:raise_signal", signal.SIGKILL)
    assert [outcome.status for outcome in outcomes] == [-signal.SIGKILL] * 2
    assert "exit status -9" in str(outcomes[0])


def test_a_hang_is_reported_with_the_stacks_of_all_workers(new_gang: NewGang) -> None:
    gang = new_gang(2)
    gang.start()
    pids = gang.pids
    with pytest.raises(GangCallError, match=r"longer than 0.5 s on workers \[0, 1\]") as error:
        gang.run("time:sleep", 60, timeout_seconds=0.5)
    assert str(error.value).count("most recent call first") == 2
    assert "_attempt" in str(error.value)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_closing_leaves_no_process_behind(new_gang: NewGang) -> None:
    gang = new_gang(2)
    gang.start()
    pids = gang.pids
    gang.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_workers_print_can_be_read(new_gang: NewGang) -> None:
    gang = new_gang(2)
    gang.run("builtins:print", "a word", flush=True)
    assert [gang.output(worker) for worker in (0, 1)] == ["a word\n", "a word\n"]
