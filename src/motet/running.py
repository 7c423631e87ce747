"""``motet.run``: train jobs together on the workers that are there. Every worker calls it alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from motet.errors import UsageError
from motet.events import Observer
from motet.job_output import JobOutput
from motet.job_source import JobSource, ListedJobs
from motet.jobs import Job
from motet.order import Order, parse_order
from motet.pipeline import Pipeline
from motet.planning import Planning
from motet.results import Results
from motet.run_dir import RunDir
from motet.workers import Workers


@dataclass(frozen=True)
class Show:
    """Where jobs' lines appear (stdout, stderr), and how Motet itself says something, where that is not the default."""

    streams: tuple[TextIO, TextIO]
    tell: Callable[[str], None]


def run(
    jobs: Mapping[str, Callable[[], object]] | Sequence[Job],
    *,
    order: str | Sequence[str] | None = None,
    at_once: int | None = None,
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
    verbose: bool = False,
    buffers: Literal["overlapped", "blocking"] = "overlapped",
    timeout_seconds: float = 1800.0,
    show: Show | None = None,
) -> Results:
    """Train several jobs on the workers of this process group and return what came of them.

    ``jobs``: callables without arguments, by name, or `Job` records. ``order``: a cyclic sequence of names
    (``"a,b,a,c"``, or ``"round-robin"``) to keep to; by default it is determined from what the jobs' turns cost.
    ``at_once``: how many are in flight together; the others join as earlier ones end. Called under torchrun it uses
    the workers it finds (and a process group that is there already); called by itself it is a single worker.

    A job that fails on all workers raises nothing: its status tells. Raises `UsageError` for bad arguments before
    anything is started, `GangError` if something goes wrong between the workers. Afterwards torch is as it was.
    """
    listed = _listed(jobs)
    names = [job.name for job in listed]
    parsed = None if order is None else parse_order(order, names)
    if at_once is not None and (not isinstance(at_once, int) or at_once < 1):
        raise UsageError(f"at_once takes a number of jobs, at least 1; it was given {at_once!r}")
    return _run(
        lambda workers: ListedJobs(listed),
        parsed,
        at_once or len(listed),
        run_dir=run_dir,
        observers=observers,
        verbose=verbose,
        buffers=buffers,
        timeout_seconds=timeout_seconds,
        show=show,
    )


def run_source(
    make_source: Callable[[Workers], JobSource],
    *,
    at_once: int,
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
    verbose: bool = False,
    buffers: Literal["overlapped", "blocking"] = "overlapped",
    timeout_seconds: float = 1800.0,
    show: Show | None = None,
) -> Results:
    """Train the jobs that a source gives, ``at_once`` of them in flight together, until it gives no more.

    ``make_source`` is called on every worker alike once the workers are joined; its source names at least the first
    job, if there is one at all. Everything else is as in `run`.
    """
    return _run(
        make_source,
        None,
        at_once,
        run_dir=run_dir,
        observers=observers,
        verbose=verbose,
        buffers=buffers,
        timeout_seconds=timeout_seconds,
        show=show,
    )


def run_planned(
    jobs: Sequence[Job],
    planning: Planning,
    *,
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
    timeout_seconds: float = 1800.0,
    show: Show | None = None,
) -> Results:
    """Train jobs, all in flight together, in the order that ``planning`` decides. Everything else is as in `run`."""
    return _run(
        lambda workers: ListedJobs(jobs),
        planning,
        len(jobs),
        run_dir=run_dir,
        observers=observers,
        verbose=False,
        buffers="overlapped",
        timeout_seconds=timeout_seconds,
        show=show,
    )


def _run(
    make_source: Callable[[Workers], JobSource],
    order: Order | Planning | None,
    at_once: int,
    *,
    run_dir: RunDir | Path | str | None,
    observers: Sequence[Observer],
    verbose: bool,
    buffers: Literal["overlapped", "blocking"],
    timeout_seconds: float,
    show: Show | None,
) -> Results:
    """Put the parts together and run them."""
    workers = Workers.join(timeout_seconds=timeout_seconds)
    folder = _common_run_dir(workers, run_dir) if isinstance(run_dir, (str, Path)) else run_dir
    orderly = False
    try:
        job_dir = (lambda name: None) if folder is None else folder.job_dir
        output = JobOutput(workers.worker, job_dir, everybody=verbose, streams=show.streams if show else None)
        try:
            source = make_source(workers)
        except UsageError:
            orderly = True
            raise
        if not source.names:
            orderly = True
            return Results(jobs={}, num_workers=workers.num_workers, wall_seconds=0.0)
        pipeline = Pipeline(
            source,
            order if isinstance(order, Planning) else Planning(order, source.names),
            at_once,
            workers,
            observers,
            job_dir=job_dir,
            start_job=output.start,
            end_job=output.end,
            tell=show.tell if show else output.tell,
            blocking_buffers=buffers == "blocking",
        )
        results = pipeline.run()
        orderly = True
        return results
    finally:
        workers.leave(orderly=orderly)


def _common_run_dir(workers: Workers, path: Path | str) -> RunDir:
    """Begin a run directory on worker 0 and open it on the others, which get one alike if they do not share it."""

    def begin() -> str:
        begun = RunDir.create(path, {"num_workers": workers.num_workers})
        return json.dumps({"path": str(begun.path), "description": dict(begun.description)})

    told = json.loads(workers.said_by_worker_0(begin))
    if workers.worker == 0:
        return RunDir.open(told["path"])
    return RunDir.join(told["path"], told["description"])[0]


def _listed(jobs: Mapping[str, Callable[[], object]] | Sequence[Job]) -> list[Job]:
    listed = [Job(name, call) for name, call in jobs.items()] if isinstance(jobs, Mapping) else list(jobs)
    if not listed:
        raise UsageError("there is no job to run: give at least one")
    names = [job.name for job in listed]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two jobs are called '{doubled[0]}'; give each a name of its own")
    return listed
