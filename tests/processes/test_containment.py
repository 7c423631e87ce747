"""A job's process that dies takes its own job alone: the other ends as if it had been there by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.distributed.command import Place
from tests.processes.command import place_in, train_words, trained_alone, weights
from tests.processes.strikes import struck_run

STEPS = 12
WAYS = {
    "kill": ["killed by SIGKILL"],
    "segfault": ["killed by SIGSEGV"],
    "exit": ["ended with exit status 7"],
    "raise": ["RuntimeError: worker 1 met something", "and says more of it"],
    "memory": ["RuntimeError", "allocate memory"],
}
SOLO = {"steps": STEPS}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return what each job leaves that runs alone."""
    return trained_alone(tmp_path_factory.mktemp("alone"), **SOLO)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as place:
        yield place


def test_whatever_ends_a_job_on_one_worker_ends_that_job_alone(place: Place, alone: dict[str, bytes]) -> None:
    jobs: dict[str, dict[str, Any]] = {"good": SOLO}
    jobs |= {way: {**SOLO, "crash": way, "worker": 1, "at": 3 + at} for at, way in enumerate(WAYS)}
    status, out, err = place.motet(*train_words(place, jobs, "--max-job-failures=0"))
    assert status == 1, (out, err)
    assert place.jobs_of() == {"good": "finished", **dict.fromkeys(WAYS, "failed")}
    errors, turns = place.jobs_of(field="error"), place.jobs_of(field="turns")
    assert (errors["good"], turns["good"]) == (None, STEPS)
    for at, (way, words) in enumerate(WAYS.items()):
        assert errors[way].startswith("on worker 1 alone, in turn "), errors[way]
        assert all(word in errors[way] for word in words), errors[way]
        assert turns[way] == 4 + at
        [told] = [line for line in out.splitlines() if line.startswith(f"{way} failed: ")]
        assert told.endswith(f"(all of it: out/jobs/{way}/log-worker-1.txt)"), told
        assert f"{told.rpartition(' (')[2]}\n" in err
        log = place.path / "out" / "jobs" / way / "log.txt"
        assert log.read_text().endswith(errors[way].rstrip() + "\n"), "not what this worker's process met then"
        assert all(f"[{way}] {line}\n" in err for line in errors[way].splitlines())
        assert not weights(place.path / way)
    assert "run_backward" not in err, "where the others' processes stood helps nobody"
    assert "train_script.py:" in out.partition("raise failed: ")[2].partition("RuntimeError: worker 1 met something")[0]
    assert weights(place.path / "good") == alone


def test_with_checkpoints_whatever_ends_a_job_on_one_worker_costs_nothing(
    place: Place, alone: dict[str, bytes]
) -> None:
    jobs: dict[str, dict[str, Any]] = {"good": SOLO}
    jobs |= {way: {**SOLO, "save": 1, "crash": way, "worker": at % 2, "at": 3 + at} for at, way in enumerate(WAYS)}
    status, out, err = place.motet(*train_words(place, jobs, "--max-job-failures=1"))
    assert status == 0, (out, err)
    assert set(place.jobs_of().values()) == {"finished"}
    assert set(place.jobs_of(field="turns").values()) == {STEPS}
    for name in jobs:
        assert weights(place.path / name) == alone, name
        assert (f"{name}: failed on worker" in err) == (name != "good"), err


@pytest.mark.slow
def test_what_all_workers_meet_in_one_turn_is_not_tried_again(place: Place, alone: dict[str, bytes]) -> None:
    jobs: dict[str, dict[str, Any]] = {"good": SOLO}
    jobs |= {way: {**SOLO, "save": 2, "crash": way, "worker": -1, "always": True} for way in ("raise", "exit")}
    status, out, err = place.motet(*train_words(place, jobs, "--max-job-failures=3"))
    assert status == 1, (out, err)
    assert place.jobs_of() == {"good": "finished", "raise": "failed", "exit": "failed"}
    errors = place.jobs_of(field="error")
    assert "worker 0 met something" in errors["raise"]
    assert "exit status 7" in errors["exit"]
    assert "alone" not in errors["raise"] + errors["exit"]
    assert "it starts again" not in err
    assert weights(place.path / "good") == alone


@pytest.mark.slow
def test_a_job_that_fails_on_one_worker_again_and_again_is_left_out(place: Place, alone: dict[str, bytes]) -> None:
    jobs = {"good": SOLO, "bad": {**SOLO, "save": 2, "crash": "kill", "worker": 1, "always": True}}
    status, out, err = place.motet(*train_words(place, jobs, "--max-job-failures=2"))
    assert status == 1, (out, err)
    assert place.jobs_of() == {"good": "finished", "bad": "failed"}
    assert "killed by SIGKILL" in place.jobs_of(field="error")["bad"]
    assert weights(place.path / "good") == alone


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_ten_random_moments_in_a_run_leave_all_weights_as_they_are(tmp_path: Path, seed: int) -> None:
    struck, wrong = struck_run(tmp_path, 10, seed)
    assert not wrong
    assert len(struck) == 10
