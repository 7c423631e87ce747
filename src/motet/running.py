"""``motet.run``: train jobs together on the workers that are there. Every worker calls it alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from motet.errors import UsageError
from motet.events import Observer
from motet.jobs import Job
from motet.order import parse_order, round_robin
from motet.pipeline import Pipeline
from motet.results import Results
from motet.run_dir import RunDir
from motet.workers import Workers


def run(
    jobs: Mapping[str, Callable[[], object]] | Sequence[Job],
    *,
    order: str | Sequence[str] | None = None,
    at_once: int | None = None,
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
    verbose: bool = False,
    timeout_seconds: float = 1800.0,
) -> Results:
    """Train several jobs on the workers of this process group and return what came of them.

    ``jobs``: callables without arguments, by name, or `Job` records. ``order``: a cyclic sequence of names
    (``"a,b,a,c"``), by default each in its turn. ``at_once``: how many are in flight together; the others join as
    earlier ones end. Called under torchrun it uses the workers it finds (and a process group that is there already);
    called by itself it is a single worker.

    A job that fails on all workers raises nothing: its status tells. Raises `UsageError` for bad arguments before
    anything is started, `GangError` if something goes wrong between the workers. Afterwards torch is as it was.
    """
    listed = _listed(jobs)
    names = [job.name for job in listed]
    parsed = round_robin(names) if order is None else parse_order(order, names)
    if at_once is not None and (not isinstance(at_once, int) or at_once < 1):
        raise UsageError(f"at_once takes a number of jobs, at least 1; it was given {at_once!r}")
    folder = RunDir.create(run_dir, {}) if isinstance(run_dir, (str, Path)) else run_dir
    workers = Workers.join(
        state_dir=None if folder is None else folder.state_dir,
        timeout_seconds=timeout_seconds,
    )
    orderly = False
    try:
        pipeline = Pipeline(
            listed,
            parsed,
            at_once or len(listed),
            workers,
            observers,
            job_dir=lambda name: None if folder is None else folder.job_dir(name),
            start_job=lambda name: None,
            end_job=lambda name: None,
        )
        results = pipeline.run()
        orderly = True
        return results
    finally:
        workers.leave(orderly=orderly)


def _listed(jobs: Mapping[str, Callable[[], object]] | Sequence[Job]) -> list[Job]:
    listed = [Job(name, call) for name, call in jobs.items()] if isinstance(jobs, Mapping) else list(jobs)
    if not listed:
        raise UsageError("there is no job to run: give at least one")
    names = [job.name for job in listed]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two jobs are called '{doubled[0]}'; give each a name of its own")
    return listed
