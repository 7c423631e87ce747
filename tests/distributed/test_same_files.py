"""Two jobs that write one file are told of, whoever writes; what is meant to be shared is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.distributed.jobs_files import CLASHES, NEEDED, SHARED

from motet.testing import Gang

JOBS = "tests.distributed.jobs_files:"
Gangs = Callable[[int], Gang]


@pytest.mark.parametrize("kind", CLASHES)
def test_whoever_writes_is_seen(gangs: Gangs, tmp_path: Path, kind: str) -> None:
    if kind in NEEDED and importlib.util.find_spec(NEEDED[kind]) is None:
        pytest.skip(f"{NEEDED[kind]} is not installed")
    [result] = gangs(1).run(f"{JOBS}run_both", kind, str(tmp_path))
    assert result["statuses"] == {"first": "finished", "second": "finished"}
    notices = [notice for notice in result["notices"] if "starts a thread" not in notice]
    first, last = notices[0], notices[-1]
    assert first.startswith("job 'second' ")
    assert "which job 'first' of this run has written" in first
    assert str(tmp_path) in first
    assert "--job-cwd" in first
    assert last.startswith("jobs 'first' and 'second' have written the same files")
    assert len(notices) == 2, "a pair is told once, and all files together at the end"


@pytest.mark.parametrize("kind", SHARED)
def test_what_is_meant_to_be_shared_is_not_reported(gangs: Gangs, tmp_path: Path, kind: str) -> None:
    [result] = gangs(1).run(f"{JOBS}run_both", kind, str(tmp_path))
    assert result == {"notices": [], "statuses": {"first": "finished", "second": "finished"}}


def test_nobody_listens_after_a_run(gangs: Gangs, tmp_path: Path) -> None:
    assert gangs(1).run(f"{JOBS}count_handlers", str(tmp_path)) == [0]


@pytest.mark.parametrize("writer", [0, 1])
def test_a_notice_comes_from_any_worker(gangs: Gangs, tmp_path: Path, writer: int) -> None:
    first, other = gangs(2).run(f"{JOBS}train_both", str(tmp_path), "warn", writer, 20)
    notices = [text for text in first["notices"] if "has written" in text or "the same files" in text]
    assert [text.split(" ")[:2] for text in notices] == [["job", "'second'"], ["jobs", "'first'"]]
    assert {status for status, _, _ in first["statuses"].values()} == {"finished"}
    assert bool([text for text in other["seen"] if "has written" in text]) == (writer == 1)


@pytest.mark.parametrize("writer", [0, 1])
def test_stop_job_ends_the_second_on_all_workers_alike(gangs: Gangs, tmp_path: Path, writer: int) -> None:
    results = gangs(2).run(f"{JOBS}train_both", str(tmp_path), "stop-job", writer)
    for result in results:
        assert result["error"] is None
        assert result["statuses"]["first"][:2] == ("finished", 200)
        status, turns, error = result["statuses"]["second"]
        assert status == "failed"
        assert turns < 200
        assert "as --on-same-file stop-job asks" in error
    assert results[0]["statuses"]["second"][1] == results[1]["statuses"]["second"][1]


def test_error_ends_the_run_before_anything_is_lost(new_gang: Callable[[int], Gang], tmp_path: Path) -> None:
    first, other = new_gang(2).attempt(f"{JOBS}train_both", str(tmp_path), "error", 0)
    report = first.value
    assert report["error"].startswith("SameFileError: Job 'second' writes ")
    assert "which job 'first' of this run has written" in report["error"]
    assert len(report["caught"]) == 1, "raised in the job, at the place where it would have written"
    assert report["kept"] == "first"
    assert not other.ok or "which job 'first' of this run has written" in other.value["error"]
