"""Checkpoints of real runs: what comes back is what was, to the bit; what cannot be saved harms nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from motet.testing import Gang

JOBS = "tests.distributed.jobs_saving:"
Gangs = Callable[[int], Gang]


def committed(place: Path, job: str = "saves") -> list[str]:
    return sorted(path.name for path in (place / "checkpoints" / job).iterdir())


@pytest.mark.parametrize(
    ("loop", "num_workers", "stopped_worker"),
    [
        ("steps", 1, 0),
        ("steps", 2, 1),
        ("steps", 3, 2),
        ("epochs", 1, 0),
        ("epochs", 2, 0),
        ("epochs, shuffled globally", 2, 1),
        ("accumulation", 2, 0),
    ],
)
def test_stopped_and_resumed_equals_plain_ddp(
    gangs: Gangs, tmp_path: Path, loop: str, num_workers: int, stopped_worker: int
) -> None:
    """At 1 and 2 workers that is the uninterrupted run; at 3, plain DDP stopped and resumed at the same turn."""
    place = str(tmp_path / "run")
    answers = gangs(num_workers).run(f"{JOBS}stopped_and_resumed", place, loop, 9, stopped_worker)
    for report in answers:
        assert report["differences"] == []
        assert report["first"]["jobs"]["beside"][0] == "stopped"
        status, turn, _ = report["first"]["jobs"]["saves"]
        assert status == "stopped"
        before, after = report["steps"]
        assert before[-1] + 1 == turn == after[0], "no turn is lost, and none is repeated"
        assert {job: status for job, (status, _, _) in report["second"]["jobs"].items()} == {
            "saves": "finished",
            "beside": "finished",
        }
        assert any("'beside'" in notice and "starts again" in notice for notice in report["second"]["notices"])
        assert report["first"]["notices"] == ()


def test_a_run_that_has_ended_is_not_run_again(gangs: Gangs, tmp_path: Path) -> None:
    place = str(tmp_path)
    first = gangs(2).run(f"{JOBS}saved_in_plain_steps", place)[0]
    assert first["steps"] == list(range(24))
    assert committed(tmp_path) == ["turn-00000020", "turn-00000024"], "the newest two; the end is one"
    second = gangs(2).run(f"{JOBS}saved_in_plain_steps", place)[0]
    assert second["steps"] == []
    assert second["jobs"] == first["jobs"]
    kept = json.loads((tmp_path / "jobs" / "saves" / "ended.json").read_text())
    assert (kept["job"], kept["status"], kept["turns"]) == ("saves", "finished", 24)


def test_all_workers_save_at_the_same_points_by_the_clock(gangs: Gangs, tmp_path: Path) -> None:
    report = gangs(2).run(f"{JOBS}by_minutes", str(tmp_path))[0]
    assert report["notices"] == ()
    turns = [int(re.sub(r"\D", "", name)) for name in committed(tmp_path)]
    assert len(turns) > 2, "some before the end"
    assert turns[-1] == 200


def harm(place: Path, names: list[str]) -> None:
    for name in names:
        path = place / "checkpoints" / "saves" / name / "shared.pt"
        data = bytearray(path.read_bytes())
        data[len(data) // 2 : len(data) // 2 + 8] = b"damaged!"
        path.write_bytes(data)


def rerun(gangs: Gangs, place: Path, num_workers: int = 2) -> dict[str, Any]:
    (place / "jobs" / "saves" / "ended.json").unlink()
    report: dict[str, Any] = gangs(num_workers).run(f"{JOBS}saved_in_plain_steps", str(place))[0]
    return report


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(gangs: Gangs, tmp_path: Path) -> None:
    gangs(2).run(f"{JOBS}saved_in_plain_steps", str(tmp_path))
    harm(tmp_path, ["turn-00000024"])
    report = rerun(gangs, tmp_path)
    assert report["steps"] == list(range(20, 24))
    assert len(report["notices"]) == 1
    assert "turn-00000024" in report["notices"][0]
    assert "checksum" in report["notices"][0]
    harm(tmp_path, committed(tmp_path))
    report = rerun(gangs, tmp_path)
    status, _, error = report["jobs"]["saves"]
    assert status == "failed", "nothing begins anew over what someone may want to rescue"
    assert "no checkpoint of job 'saves' can be used" in error


def test_another_number_of_workers_is_said_plainly(gangs: Gangs, tmp_path: Path) -> None:
    gangs(2).run(f"{JOBS}saved_in_plain_steps", str(tmp_path))
    for path in (tmp_path / "checkpoints" / "saves" / "turn-00000024").iterdir():
        path.unlink()
    (tmp_path / "checkpoints" / "saves" / "turn-00000024").rmdir()
    report = rerun(gangs, tmp_path, num_workers=1)
    assert report["steps"] == list(range(20, 24))
    assert any("2 workers" in notice and "differ" in notice for notice in report["notices"]), report["notices"]


def test_what_cannot_be_saved_is_refused_on_all_workers_alike(gangs: Gangs, tmp_path: Path) -> None:
    reports = gangs(2).run(f"{JOBS}unsaveable", str(tmp_path))
    for worker in reports:
        assert worker["jobs"]["odd"][0] == worker["jobs"]["twice"][0] == "failed"
        assert "odd.model.it" in worker["jobs"]["odd"][2]
        assert "twice" in worker["jobs"]["twice"][2]
        assert worker["jobs"]["saves"][0] == "finished", "the failure of one job is its own"


def test_a_save_that_fails_is_reported_once_and_the_training_goes_on(gangs: Gangs, tmp_path: Path) -> None:
    reports = gangs(2).run(f"{JOBS}becoming_other", str(tmp_path))
    assert all(worker["jobs"]["changes"][:2] == ("finished", 10) for worker in reports)
    assert len(reports[0]["notices"]) == 1
    assert "goes on without being saved" in reports[0]["notices"][0]
    assert not committed(tmp_path, "changes"), "and leaves nothing behind"


def test_without_a_run_directory_nothing_is_saved(gangs: Gangs) -> None:
    report = gangs(2).run(f"{JOBS}without_a_place")[0]
    assert report["jobs"]["saves"][:2] == ("finished", 24)
    assert ["nothing is saved" in notice for notice in report["notices"]] == [True]


@pytest.mark.parametrize("on_nan", ["ignore", "stop-job", "raise"])
@pytest.mark.parametrize("catches", [False, True])
def test_nan_is_decided_by_all_workers_alike(gangs: Gangs, tmp_path: Path, on_nan: str, catches: bool) -> None:
    for worker in gangs(2).run(f"{JOBS}nan_at", str(tmp_path / "run"), 4, on_nan, catches):
        status, turns, error = worker["jobs"]["nan"]
        assert worker["jobs"]["beside"][:2] == ("finished", 60)
        if on_nan == "ignore" or (on_nan == "raise" and catches):
            assert (status, turns) == ("finished", 8)
            assert worker["caught"] == ([4] if on_nan == "raise" else [])
        else:
            assert (status, turns) == ("failed", 4)
            assert "turn 4" in error
            assert "'weight' holds NaN" in error


def test_a_job_that_fails_on_all_workers_stays_failed(gangs: Gangs, tmp_path: Path) -> None:
    for _ in range(2):
        report = gangs(2).run(f"{JOBS}failing_on", str(tmp_path), None, 3)[0]
        assert report["jobs"]["fails"][:2] == ("failed", 3)
        assert report["jobs"]["saves"][0] == "finished"
    assert not list((tmp_path / "jobs" / "fails").glob("attempts/*")), "nobody is charged for it"


def test_a_job_that_fails_on_one_worker_is_charged_and_then_left_out(new_gang: Gangs, tmp_path: Path) -> None:
    gang = new_gang(2)
    for attempt in (1, 2):
        outcomes = gang.attempt(f"{JOBS}failing_on", str(tmp_path), 1, 3)
        assert [outcome.kind for outcome in outcomes] == ["WorkerFailedError"] * 2, list(map(str, outcomes))
        assert all("no such layer" in str(outcome) for outcome in outcomes), "\n".join(map(str, outcomes))
        assert len(list((tmp_path / "jobs" / "fails").glob("attempts/*.json"))) == attempt
    report = gang.run(f"{JOBS}failing_on", str(tmp_path), 1, 3)[0]
    status, turns, error = report["jobs"]["fails"]
    assert (status, turns) == ("failed", 4)
    assert "left out" in error
    assert "worker 1 in turn 4" in error
    assert "ValueError: no such layer" in error
    assert report["jobs"]["saves"][0] == "finished"
