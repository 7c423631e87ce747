"""What goes wrong in a job, or on a worker, ends what it must and nothing else; nothing ever hangs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from motet.testing import Gang, Outcome

JOBS = "tests.distributed.jobs_failures"
PLACES = ["start", "forward", "backward", "after backward", "last line"]
TURN = {"start": 1, "forward": 3, "backward": 3, "after backward": 4, "last line": 7}
GANG_ERRORS = {"WorkerFailedError", "DivergenceError", "WorkerLostError", "SyncTimeoutError", "GangError"}
NewGang = Callable[[int], Gang]


def errors_of(gang: Gang, outcomes: Sequence[Outcome], within_seconds: float = 30.0) -> list[str]:
    """Require that every worker ended with an error that is Motet's; return what each says."""
    texts = []
    for worker, outcome in enumerate(outcomes):
        assert not outcome.ok, f"worker {worker} {outcome}"
        assert outcome.seconds < within_seconds
        assert outcome.kind in GANG_ERRORS or outcome.status == 4, f"worker {worker} {outcome}\n{gang.output(worker)}"
        texts.append(outcome.error or gang.output(worker))
    return texts


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("place", PLACES)
def test_an_exception_on_all_workers_ends_its_job_alone(gangs: NewGang, place: str, num_workers: int) -> None:
    for worker in gangs(num_workers).run(f"{JOBS}:beside_others", {"place": place}):
        assert worker["status"] == {"plain": "finished", "faulty": "failed", "batchnorm": "finished"}
        assert worker["differences"] == []
        assert worker["turns"]["faulty"] == TURN[place] - 1
        assert f"PlannedError: planned at {place}, step 3" in worker["error"]
        assert "jobs_failures.py" in worker["error"]
        ours = [
            file for file in ("coroutines.py", "intercept/groups.py", "jobs/") if f"motet/{file}" in worker["error"]
        ]
        assert not ours, "our own frames help nobody"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_users_hook_that_fails_on_all_workers_ends_its_job_alone(gangs: NewGang, num_workers: int) -> None:
    for worker in gangs(num_workers).run(f"{JOBS}:beside_others", {"place": "hook"}):
        assert worker["status"] == {"plain": "finished", "faulty": "failed", "batchnorm": "finished"}
        assert worker["differences"] == []
        assert "planned in a hook" in worker["error"]
        assert "backward()" in worker["error"], "raised where plain DDP raises it"


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("place", PLACES)
def test_an_exception_on_one_worker_ends_the_gang(gangs: NewGang, place: str, num_workers: int) -> None:
    gang = gangs(num_workers)
    outcomes = gang.attempt(f"{JOBS}:beside_others", {"place": place, "worker": 1})
    for text in errors_of(gang, outcomes):
        assert "orker 1" in text
        assert "'faulty'" in text
        assert f"turn {TURN[place]}" in text
        assert "PlannedError: planned at" in text


def test_an_exception_on_worker_0_with_the_waits_of_earnest(gangs: NewGang) -> None:
    gang = gangs(2)
    outcomes = gang.attempt(f"{JOBS}:beside_others", {"place": "forward", "worker": 0}, quick=False)
    for text in errors_of(gang, outcomes):
        assert all(word in text for word in ("orker 0", "'faulty'", "turn 3", "PlannedError"))


@pytest.mark.parametrize("quick", [True, False])
def test_an_exception_on_one_worker_while_the_others_block_in_a_collective(gangs: NewGang, quick: bool) -> None:
    gang = gangs(2)
    arguments = {"place": "after backward", "worker": 1, "talks": True}
    outcomes = gang.attempt(f"{JOBS}:beside_others", arguments, quick=quick)
    for text in errors_of(gang, outcomes):
        assert all(word in text for word in ("orker 1", "'faulty'", "turn 4", "PlannedError"))


def test_the_same_exception_in_different_turns(gangs: NewGang) -> None:
    gang = gangs(2)
    outcomes = gang.attempt(f"{JOBS}:same_name_other_place", 1)
    for text in errors_of(gang, outcomes):
        assert "'faulty'" in text
        assert "worker 0" in text.lower()
        assert "turn 3" in text


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("talks", [False, True], ids=["", "all-reduces its loss"])
def test_a_job_that_ends_earlier_on_one_worker(gangs: NewGang, num_workers: int, talks: bool) -> None:
    gang = gangs(num_workers)
    outcomes = gang.attempt(f"{JOBS}:beside_others", {"worker": 1, "ends_after": 3, "talks": talks})
    for text in errors_of(gang, outcomes):
        assert "'faulty'" in text
        assert "worker 1" in text.lower()
        assert "turn 4" in text or "3 synchronized turns" in text


def test_a_job_that_ends_earlier_on_one_worker_in_earnest(gangs: NewGang) -> None:
    gang = gangs(2)
    outcomes = gang.attempt(f"{JOBS}:beside_others", {"worker": 0, "ends_after": 3, "talks": True}, quick=False)
    assert all("'faulty'" in text for text in errors_of(gang, outcomes))


@pytest.mark.parametrize("steps", [6, 60])
def test_no_sync_on_one_worker(gangs: NewGang, steps: int) -> None:
    gang = gangs(2)
    outcomes = gang.attempt(f"{JOBS}:beside_others", {"worker": 1, "skips": True, "steps": steps})
    for text in errors_of(gang, outcomes):
        assert "no_sync()" in text or "'faulty'" in text
        assert "worker 0" in text.lower()
        assert "worker 1" in text.lower()


@pytest.mark.parametrize("quick", [True, False])
def test_a_collective_that_one_worker_calls_alone(gangs: NewGang, quick: bool) -> None:
    gang = gangs(2)
    outcomes = gang.attempt(f"{JOBS}:beside_others", {"worker": 1, "speaks_alone": True}, quick=quick)
    for text in errors_of(gang, outcomes):
        assert "'faulty'" in text
        assert "turn 3" in text


@pytest.mark.parametrize(("num_workers", "worker"), [(2, 0), (2, 1), (3, 0), (3, 2)])
@pytest.mark.parametrize(("kind", "status"), [("kill", -signal.SIGKILL), ("exit", 3)])
def test_a_worker_that_dies(new_gang: NewGang, num_workers: int, worker: int, kind: str, status: int) -> None:
    gang = new_gang(num_workers)
    outcomes = gang.attempt(f"{JOBS}:with_a_fault", kind, worker, 3, quick=False)
    assert outcomes[worker].status == status
    survivors = [outcome for other, outcome in enumerate(outcomes) if other != worker]
    for text in errors_of(gang, survivors):
        assert "a worker died" in text or "lost the connection" in text
        assert "job '" in text
        assert "turn " in text


def test_a_worker_that_dies_with_data_loaders(new_gang: NewGang) -> None:
    gang = new_gang(2)
    outcomes = gang.attempt(f"{JOBS}:dies_with_loaders", 1)
    assert outcomes[1].status == -signal.SIGKILL
    errors_of(gang, [outcomes[0]])


def test_a_data_loader_that_dies_fails_its_own_job(new_gang: NewGang) -> None:
    for jobs in new_gang(2).run(f"{JOBS}:beside_a_loader_that_dies"):
        assert jobs["other"] == ("finished", 12, None)
        status, turns, error = jobs["loads"]
        assert (status, turns) == ("failed", 5)
        assert "DataLoader worker" in error
        assert "exited unexpectedly" in error


@pytest.mark.parametrize("worker", [0, 1])
def test_a_worker_that_stands_still(new_gang: NewGang, worker: int) -> None:
    gang = new_gang(2)
    outcomes = gang.attempt(f"{JOBS}:stands_still", worker)
    texts = errors_of(gang, outcomes)
    assert all("timeout" in text or "Nothing has moved" in text for text in texts)
    assert all(word in texts[1 - worker] for word in (f"worker {worker}", "'faulty'", "turn 3")), "where it stands"


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["term", "interrupt"])
def test_a_signal_to_one_worker_stops_all_at_the_same_turn(gangs: NewGang, kind: str, num_workers: int) -> None:
    outcomes = gangs(num_workers).attempt(f"{JOBS}:until_stopped", kind, num_workers - 1)
    for outcome in outcomes:
        assert outcome.ok, outcome
        assert outcome.seconds < 15
        stopped: Any = outcome.value
        assert stopped == outcomes[0].value
        assert stopped["status"] == {"short": "finished", "faulty": "stopped", "other": "stopped", "last": "finished"}
        assert stopped["turns"]["faulty"] >= 39


def test_jobs_that_wait_to_begin_are_stopped_too(gangs: NewGang) -> None:
    for worker in gangs(2).run(f"{JOBS}:until_stopped", "term", 0, at_once=2):
        assert worker["status"] == {"short": "finished", "faulty": "stopped", "other": "stopped", "last": "stopped"}
        assert worker["turns"]["last"] == 0


@pytest.mark.parametrize("swallow", ["", "some", "all"])
def test_loops_that_catch_exceptions_stop_too(gangs: NewGang, tmp_path: Path, swallow: str) -> None:
    for worker in gangs(2).run(f"{JOBS}:until_stopped", "term", 0, swallow, str(tmp_path / "cleaned")):
        assert worker["status"]["faulty"] == "stopped"
    assert len(list(tmp_path.iterdir())) == (0 if swallow == "all" else 2), "what a loop cleans up is cleaned up"


def test_a_gang_goes_on_after_a_stop(gangs: NewGang) -> None:
    gang = gangs(2)
    gang.run(f"{JOBS}:until_stopped", "term", 0)
    names = {"plain": "jobs_plain:plain", "batchnorm": "jobs_buffers:every_moment"}
    gang.run("tests.distributed.identity:must_equal_alone", names)
