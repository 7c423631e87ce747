"""What worker 0 decides for all reaches all: also when it is an error, whichever, and when it never comes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from motet.errors import CheckpointError, GangError, UsageError, pack_error, unpack_error
from motet.testing import Gang

JOBS = "tests.distributed.jobs_broadcast:"


def test_a_damaged_description_is_everybodys_error(new_gang: Callable[[int], Gang], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{ garbage")
    outcomes = new_gang(2).attempt(f"{JOBS}resumes", str(tmp_path))
    for outcome in outcomes:
        assert (outcome.kind, outcome.status) == ("CheckpointError", None), outcome
        assert "run.json is damaged" in str(outcome.error)
        assert outcome.seconds < 30


@pytest.mark.parametrize("kind", ["ZeroDivisionError", "KeyboardInterrupt", "SystemExit"])
def test_any_error_of_worker_0_is_named(gangs: Callable[[int], Gang], kind: str) -> None:
    reports = gangs(3).run(f"{JOBS}raises", kind)
    assert reports[0] == (kind, "it was worker 0")
    for worker in reports[1:]:
        assert worker[0] == "WorkerFailedError"
        assert f"{kind}: it was worker 0" in worker[1]


@pytest.mark.parametrize("where", ["look", "output"])
def test_an_error_before_the_first_turn_ends_the_others(
    new_gang: Callable[[int], Gang], tmp_path: Path, where: str
) -> None:
    # "output": it arises where nobody waits for a word yet; the others learn that worker 0 has left
    outcomes = new_gang(2).attempt(f"{JOBS}fails_early", str(tmp_path), where)
    assert outcomes[0].kind == "OSError", outcomes[0]
    assert outcomes[1].kind == "WorkerFailedError", outcomes[1]
    assert "planned" in str(outcomes[1].error)
    assert outcomes[1].seconds < 40


def test_a_worker_0_that_dies_is_waited_for_until_the_timeout(new_gang: Callable[[int], Gang]) -> None:
    dead, other = new_gang(2).attempt(f"{JOBS}dies", 3.0)
    assert dead.status == -signal.SIGKILL
    assert other.kind in ("SyncTimeoutError", "WorkerLostError"), other
    assert other.seconds < 30


def test_a_run_under_torchrun_is_held(gangs: Callable[[int], Gang], tmp_path: Path) -> None:
    for during, _ in (reports := gangs(2).run(f"{JOBS}holds", str(tmp_path))):
        assert "still going on" in during
    assert reports[0][1] == "free"


def test_nothing_stays_in_the_store(gangs: Callable[[int], Gang]) -> None:
    reports: list[dict[str, Any]] = gangs(3).run(f"{JOBS}talks", 20)
    for worker in reports:
        assert worker["texts"] == ["word 0", *(f"word {number}" for number in range(1, 20))]
    assert reports[0]["after"] == reports[0]["before"]


def test_errors_keep_their_type() -> None:
    class OwnError(CheckpointError):
        pass

    for error in (UsageError("a"), CheckpointError("b\nc"), GangError("d")):
        again = unpack_error(pack_error(error))
        assert (type(again), str(again), again.from_worker_0) == (type(error), str(error), True)
    assert type(unpack_error(pack_error(OwnError("e")))) is CheckpointError, "the nearest that every worker knows"
    assert str(os.getpid()) in str(unpack_error(pack_error(OSError(os.getpid(), "f"))))
