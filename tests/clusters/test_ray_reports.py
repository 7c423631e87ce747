"""Reports to Ray that fail, hang or cannot be whole; a stand-in takes the place of ``ray.train.report``."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import HashStore

from motet.errors import CheckpointError, SyncTimeoutError, WorkerFailedError
from motet.events import JobSaved
from motet.results import Results

if find_spec("ray") is None:
    pytest.skip("Ray is not installed (pip install 'motet[ray]')", allow_module_level=True)

import motet.integrations.ray
from motet.integrations import ray_reports
from motet.integrations.ray_reports import Reports

pytestmark = pytest.mark.timeout(60)
NOTHING = Results({}, num_workers=2, wall_seconds=0.0)


class Ray:
    """What stands in for Ray: how worker 0's reports go, and what the others' do; the jobs of each that came through.

    A worker reports on its thread: which one it is, the stand-in tells by whether there is a checkpoint.
    """

    def __init__(self) -> None:
        self.leads: Callable[[], object] = lambda: None
        self.follows: Callable[[], object] = lambda: None
        self.reported: list[set[str]] = []
        self.follower_is_in = threading.Event()

    def report(self, metrics: dict[str, Any], checkpoint: Any = None) -> None:
        if checkpoint is None:
            self.follower_is_in.set()
            self.follows()
            return
        self.leads()
        self.reported.append(
            {path.parent.parent.name for path in Path(checkpoint.path).glob("checkpoints/*/turn-*/manifest")}
        )


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Ray:
    made = Ray()
    monkeypatch.setattr(ray_reports.ray.train, "report", made.report)
    return made


@pytest.fixture
def forever() -> Iterator[Callable[[], object]]:
    """Return what blocks until the test is over."""
    over = threading.Event()
    yield over.wait
    over.set()


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reports]:
    """Return what makes the reports of a worker; the workers have a store and a run's folder in common."""
    store = HashStore()
    monkeypatch.setattr(ray_reports, "store_of_program", lambda _: store)

    def make(worker: int, timeout_seconds: float = 1800.0) -> Reports:
        monkeypatch.setattr(ray_reports.dist, "get_rank", lambda: worker)
        return Reports(tmp_path / "run", timeout_seconds)

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(ray_reports, "LOOK_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(ray_reports, "LEAVE_SECONDS", 0.01)
    return make


def save(run: Path, job: str, turn: int) -> None:
    folder = run / "checkpoints" / job / f"turn-{turn:08d}"
    folder.mkdir(parents=True)
    (folder / "manifest").write_text(job)


def saved(job: str, turn: int = 1) -> JobSaved:
    return JobSaved(time=0.0, job=job, turn=turn)


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_the_others_end_with_what_worker_0_met_in_a_report_that_they_are_in(
    ray: Ray, reports: Callable[..., Reports], forever: Callable[[], object]
) -> None:
    def fail() -> None:
        assert ray.follower_is_in.wait(30)
        full()

    ray.leads, ray.follows = fail, forever
    follower, leader = reports(1), reports(0)
    with follower, leader:
        with pytest.raises(WorkerFailedError, match=r"Worker 0 could not report to Ray: OSError: .*No space left"):
            leader.finish(NOTHING)
        with pytest.raises(WorkerFailedError, match=r"Worker 0 could not report to Ray: OSError: .*No space left"):
            follower.finish(NOTHING)


def test_nobody_is_called_to_a_report_that_worker_0_cannot_begin(
    ray: Ray, reports: Callable[..., Reports], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_reports.ray.train.Checkpoint, "from_directory", lambda _: full())
    follower, leader = reports(1), reports(0)
    with follower, leader:
        with pytest.raises(WorkerFailedError, match="Worker 0"):
            leader.finish(NOTHING)
        with pytest.raises(WorkerFailedError, match="Worker 0"):
            follower.finish(NOTHING)
    assert not ray.follower_is_in.is_set()


@pytest.mark.parametrize("worker", [0, 1])
def test_a_report_that_hangs_is_not_waited_for_for_ever(
    worker: int, ray: Ray, reports: Callable[..., Reports], forever: Callable[[], object]
) -> None:
    ray.leads = ray.follows = forever
    workers = [reports(number, timeout_seconds=0.05) for number in (0, 1)]
    hangs = pytest.raises(SyncTimeoutError, match=r"for worker 0's last report to Ray; the timeout is .*storage")
    with workers[0], workers[1], hangs:
        workers[worker].finish(NOTHING)


def link_slowly(monkeypatch: pytest.MonkeyPatch, until: Callable[[], object]) -> threading.Event:
    """Have worker 0 stand in the midst of its copying; return what is set once it is there."""
    there = threading.Event()

    def link(*_: Path) -> None:
        there.set()
        until()

    monkeypatch.setattr(ray_reports.os, "link", link)
    return there


def test_a_run_that_ends_in_an_error_waits_for_the_copying(
    ray: Ray, reports: Callable[..., Reports], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_reports, "LEAVE_SECONDS", 30.0)
    has_left, was_left = threading.Event(), []
    there = link_slowly(monkeypatch, lambda: was_left.append(has_left.wait(0.3)))
    save(tmp_path / "run", "a", 1)
    leader = reports(0)
    with leader:
        leader.observe(saved("a"))
        assert there.wait(30)
    has_left.set()
    assert was_left == [False]
    assert not leader.copying


def test_the_run_directory_stays_while_it_is_copied(
    ray: Ray,
    reports: Callable[..., Reports],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    forever: Callable[[], object],
) -> None:
    there = link_slowly(monkeypatch, forever)
    reports(0)  # patches the rank

    def run_jobs(*_: object, observers: list[Any], **__: object) -> None:
        save(tmp_path / "run", "a", 1)
        observers[-1].observe(saved("a"))
        assert there.wait(30)
        raise RuntimeError("the run's own")

    run = motet.integrations.ray
    monkeypatch.setattr(run.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(run.ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=str))
    monkeypatch.setattr(run.ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(run, "broadcast_from_rank_zero", lambda report: (str(tmp_path / "run"), report[1]))
    monkeypatch.setattr(run, "tempfile", SimpleNamespace(mkdtemp=lambda **_: ""))
    monkeypatch.setattr(run, "run_jobs", run_jobs)
    with pytest.raises(RuntimeError, match="the run's own"):
        run.run({})
    assert (tmp_path / "run").exists()


def test_checkpoints_are_copied_where_there_are_no_hard_links(
    ray: Ray, reports: Callable[..., Reports], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def link(*_: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(ray_reports.os, "link", link)
    save(tmp_path / "run", "a", 1)
    with reports(0) as leader:
        leader.finish(NOTHING)
    assert ray.reported == [{"a"}]


def vanishing(monkeypatch: pytest.MonkeyPatch, job: str, times: float) -> threading.Event:
    """Have a job's newest checkpoint be gone so many times when it is to be linked; return what is set after that."""
    link, seen, enough = os.link, [0], threading.Event()

    def gone(path: Path, copy: Path) -> None:
        if path.parent.parent.name == job and seen[0] < times:
            seen[0] += 1
            raise FileNotFoundError(path)
        enough.set()
        link(path, copy)

    monkeypatch.setattr(ray_reports.os, "link", gone)
    return enough


@pytest.mark.parametrize("before", ["by an earlier start", "by this one"])
def test_no_report_lacks_a_job_that_was_saved(
    before: str, ray: Ray, reports: Callable[..., Reports], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    come = threading.Event()
    ray.leads = come.set
    for job in ("a", "b"):
        save(tmp_path / "run", job, 1)
    vanishing(monkeypatch, "b", ray_reports.TRIES + 5)
    if before == "by this one":
        monkeypatch.setattr(Reports, "__enter__", lambda self: self._thread.start() or self)
    with reports(0) as leader:
        if before == "by this one":
            leader.observe(saved("b"))
        leader.observe(saved("a"))
        assert come.wait(30), "it is tried again, without another word"
        leader.finish(NOTHING)
    assert all(jobs == {"a", "b"} for jobs in ray.reported)


def test_the_last_report_without_a_job_is_an_error(
    ray: Ray, reports: Callable[..., Reports], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    save(tmp_path / "run", "b", 1)
    vanishing(monkeypatch, "b", float("inf"))
    with reports(0) as leader, pytest.raises(CheckpointError, match="Worker 0 found no whole checkpoint of b"):
        leader.finish(NOTHING)
    assert ray.reported == []
