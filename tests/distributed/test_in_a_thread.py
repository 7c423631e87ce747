"""A run on another thread than the main one, as in Ray's workers: the same weights, the watch and stops work there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.distributed.test_failures import errors_of

from motet.testing import Gang

HERE = "tests.distributed.jobs_in_a_thread:call"
FAILURES = "tests.distributed.jobs_failures:beside_others"


def test_weights(gangs: Callable[[int], Gang]) -> None:
    for worker in gangs(2).run(HERE, FAILURES, {"place": "forward"}):
        assert worker["status"] == {"plain": "finished", "faulty": "failed", "batchnorm": "finished"}
        assert worker["differences"] == []


def test_a_collective_that_one_worker_calls_alone_is_found(gangs: Callable[[int], Gang]) -> None:
    gang = gangs(2)
    outcomes = gang.attempt(HERE, FAILURES, {"worker": 1, "speaks_alone": True}, quick=True)
    for text in errors_of(gang, outcomes):
        assert "'faulty'" in text
        assert "turn 3" in text


def test_a_time_limit_stops_all_workers(gangs: Callable[[int], Gang], tmp_path: Path) -> None:
    for worker in gangs(2).run(HERE, "tests.distributed.jobs_saving:limited", str(tmp_path), 0.3):
        status, turns, _ = worker["jobs"]["saves"]
        assert status == "stopped"
        assert (tmp_path / "checkpoints" / "saves" / f"turn-{turns:08d}").is_dir()
