"""``motet.run``: train jobs together on the workers that are there. Every worker calls it alike."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from motet import resuming
from motet.errors import UsageError
from motet.events import Observer
from motet.gradients.aggregation import Aggregation
from motet.job_output import JobOutput
from motet.job_surroundings import JobSurroundings
from motet.jobs import Compress, Job, check_compress, check_seed
from motet.memory.housing import AtOnce, OffloadWhat
from motet.nonfinite import OnNan, check_on_nan
from motet.order import Order, parse_order
from motet.pipeline import Pipeline
from motet.pipeline.job_source import JobSource, ListedJobs
from motet.planning import Planning
from motet.results import JobResult, Results
from motet.run_dir import RunDir
from motet.same_files import OnSameFile, check_on_same_file
from motet.saving import Safety
from motet.torch_versions import check
from motet.workers import Workers


@dataclass(frozen=True)
class Show:
    """Where jobs' lines appear (stdout, stderr), and how Motet itself says something, where that is not the default."""

    streams: tuple[TextIO, TextIO]
    tell: Callable[[str], None]


@dataclass(frozen=True)
class Rules:
    """When a run, or a job of it, ends early.

    ``stop_after_seconds``: the run stops by itself, resumable. ``on_nan``: what becomes of a job whose gradients hold
    NaN or infinity: ``ignore``, ``stop-job`` (it fails), ``raise`` (a `NonFiniteError` out of its ``backward()``).
    ``max_job_failures``: so many more tries has a job that failed on one worker alone. ``only``: jobs to run; the
    others wait for another start of the run. ``on_same_file``: what becomes of a job that writes a file which another
    job of the run has written: ``warn`` (it is told), ``stop-job`` (it fails), ``error`` (the run ends, where it can
    before the file is touched).
    """

    stop_after_seconds: float | None = None
    on_nan: OnNan = "ignore"
    on_same_file: OnSameFile = "warn"
    max_job_failures: int = resuming.DEFAULT_MAX_JOB_FAILURES
    only: Collection[str] | None = None


NO_RULES = Rules()


Sync = Literal["all-reduce", "aggregate"] | Callable[[Workers], Aggregation]


def run(
    jobs: Mapping[str, Callable[[], object]] | Sequence[Job],
    *,
    order: str | Sequence[str] | None = None,
    at_once: AtOnce | None = None,
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
    verbose: bool = False,
    buffers: Literal["overlapped", "blocking"] = "overlapped",
    sync: Sync = "all-reduce",
    aggregators: Sequence[int] | None = None,
    compress: Compress | None = None,
    offload: OffloadWhat = "nothing",
    timeout_seconds: float = 1800.0,
    resume: bool = False,
    rules: Rules = NO_RULES,
    seed: int | None = None,
    show: Show | None = None,
) -> Results:
    """Train several jobs on the workers of this process group and return what came of them.

    ``jobs``: callables without arguments, by name, or `Job` records. ``order``: a cyclic sequence of names
    (``"a,b,a,c"``, or ``"round-robin"``) to keep to; by default it is determined from what the jobs' turns cost.
    ``at_once``: how many are in flight together; the others join as earlier ones end; ``"auto"``: as many as fit in
    memory. ``offload="idle"``: what a job holds rests in the host's memory while others compute on the device.
    Called under torchrun it uses the workers it finds (and a process group that is there already); called by itself
    it is a single worker.
    ``run_dir``: where logs, results and checkpoints go. With ``resume`` it may hold this run already, which then goes
    on: jobs that have ended are not run again, the others go on from their checkpoints. Workers that torch elastic
    started again resume in any case. ``rules``: when the run, or a job of it, ends early. ``sync="aggregate"``: one
    worker sums gradients and sends the sums back, each in turn or those of ``aggregators``
    (`motet.gradients.aggregation`). ``compress="bf16"``: gradients travel as bfloat16 (`motet.gradients.compression`),
    of jobs that do not say otherwise. ``seed``: each job begins with random numbers of its own on each worker, which
    follow from this seed and its name; None: with the state of the generators that the caller has left.

    A job that fails on all workers raises nothing: its status tells. Raises `UsageError` for bad arguments before
    anything is started, `GangError` if something goes wrong between the workers. Afterwards torch is as it was.
    """
    listed = _listed(jobs)
    if check_compress(compress, "motet.run") is not None:
        listed = [dataclasses.replace(job, compress=job.compress or compress) for job in listed]
    names = [job.name for job in listed]
    parsed = None if order is None else parse_order(order, names)
    if at_once not in (None, "auto") and (not isinstance(at_once, int) or at_once < 1):
        raise UsageError(f"at_once takes a number of jobs, at least 1, or 'auto'; it was given {at_once!r}")
    if isinstance(offload, str) and offload not in ("nothing", "idle"):
        raise UsageError(f"offload is 'nothing' or 'idle', not {offload!r}")
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
        resume=resume,
        rules=rules,
        sync=sync,
        aggregators=aggregators,
        offload=offload,
        seed=seed,
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
    at_once: AtOnce,
    *,
    run_dir: RunDir | Path | str | None,
    observers: Sequence[Observer],
    verbose: bool,
    buffers: Literal["overlapped", "blocking"],
    timeout_seconds: float,
    show: Show | None,
    resume: bool = False,
    rules: Rules = NO_RULES,
    sync: Sync = "all-reduce",
    aggregators: Sequence[int] | None = None,
    offload: OffloadWhat = "nothing",
    seed: int | None = None,
) -> Results:
    """Put the parts together and run them."""
    check_on_nan(rules.on_nan)
    if buffers not in ("overlapped", "blocking"):
        raise UsageError(f"buffers is 'overlapped' or 'blocking', not {buffers!r}")
    check_on_same_file(rules.on_same_file)
    check_seed(seed)
    notice = check()
    begin = time.perf_counter()
    workers = Workers.join(timeout_seconds=timeout_seconds)
    orderly = begun = False
    hold = contextlib.ExitStack()  # of a directory that is given as a path; otherwise whoever made it holds it
    try:
        folder = _common_run_dir(workers, run_dir, resume, hold) if isinstance(run_dir, (str, Path)) else run_dir
        if folder is not None:
            workers.watch.write_down_in(folder.state_path(workers.worker))
        job_dir = (lambda name: None) if folder is None else folder.job_dir
        output = JobOutput(workers.worker, job_dir, everybody=verbose, streams=show.streams if show else None)
        tell = show.tell if show else output.tell
        if notice is not None:
            tell(notice)
        surroundings = JobSurroundings(workers.worker, seed)

        def start_job(job: Job) -> None:
            output.start(job.name)
            surroundings.begin(job)

        try:
            aggregation = _aggregation(workers, sync, aggregators)
            source = make_source(workers)
        except UsageError:
            orderly = True
            raise
        names, standing = list(source.names), resuming.Standing()
        if folder is not None and isinstance(source, ListedJobs):
            standing = _standing(workers, folder, names, rules)
            source.leave_out(standing.ended)
        if not source.names:
            orderly = True
            wall_seconds = time.perf_counter() - begin
            return Results(dict(standing.ended), num_workers=workers.num_workers, wall_seconds=wall_seconds)
        pipeline = Pipeline(
            source,
            order if isinstance(order, Planning) else Planning(order, source.names),
            at_once,
            workers,
            observers,
            job_dir=job_dir,
            start_job=start_job,
            end_job=output.end,
            tell=tell,
            blocking_buffers=buffers == "blocking",
            aggregation=aggregation,
            safety=_safety(workers, folder, standing, rules, tell),
            offload=offload,
        )
        begun = True  # from here on the pipeline tells the others
        results = pipeline.run()
        if aggregation is not None:
            aggregation.close()
        orderly = True
        jobs = {**standing.ended, **results.jobs}
        ordered = [*names, *(name for name in jobs if name not in names)]
        return dataclasses.replace(results, jobs={name: jobs[name] for name in ordered if name in jobs})
    except BaseException as error:
        if not begun:
            workers.watch.tell_left(f"worker {workers.worker} has left the run: {type(error).__name__}: {error}")
        raise
    finally:
        hold.close()
        workers.leave(orderly=orderly)


def _aggregation(workers: Workers, sync: Sync, aggregators: Sequence[int] | None) -> Aggregation | None:
    """Return who aggregates; None for an all-reduce."""
    if callable(sync):
        return sync(workers)
    if sync not in ("all-reduce", "aggregate"):
        raise UsageError(f"sync is 'all-reduce' or 'aggregate', not {sync!r}")
    if sync == "all-reduce":
        if aggregators is not None:
            raise UsageError('aggregators go with sync="aggregate" (--sync aggregate); an all-reduce has none')
        return None
    return Aggregation(workers.worker, workers.num_workers, aggregators)


def _standing(workers: Workers, folder: RunDir, names: Sequence[str], rules: Rules) -> resuming.Standing:
    """Return where the run stands, by worker 0's word."""

    def look() -> str:
        standing = resuming.look(folder, names, max_job_failures=rules.max_job_failures, only=rules.only)
        for name in standing.left_out:
            resuming.keep_result(folder, name, standing.ended[name], None)
        return json.dumps(standing.to_json())

    return resuming.Standing.from_json(json.loads(workers.broadcast_from_0(look)))


def _safety(
    workers: Workers, folder: RunDir | None, standing: resuming.Standing, rules: Rules, tell: Callable[[str], None]
) -> Safety:
    """Return what the pipeline does with what it learns about jobs, so that a later start knows."""
    if folder is None:
        return Safety(stop_after_seconds=rules.stop_after_seconds, on_nan=rules.on_nan, on_same_file=rules.on_same_file)
    start = workers.broadcast_from_0(lambda: uuid.uuid4().hex)

    def keep_result(name: str, result: JobResult) -> None:
        if workers.worker == 0 and result.status != "stopped":
            try:
                resuming.keep_result(folder, name, result, save_result)
            except OSError as error:
                tell(f"job '{name}' has ended, but that could not be kept for a later start of the run: {error}")

    def charge(name: str, turn: int, error: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: then the job is tried once more than it should be
            resuming.charge(folder, name, start, workers.worker, turn, error)

    return Safety(
        checkpoints=folder.checkpoints_dir,
        keep_result=keep_result,
        charge=charge,
        take_back=lambda name: resuming.take_back(folder, name, start, workers.worker),
        starting_again=standing.starting_again,
        stop_after_seconds=rules.stop_after_seconds,
        on_nan=rules.on_nan,
        on_same_file=rules.on_same_file,
        run_dir=folder.path,
    )


def save_result(value: object, path: Path) -> None:
    """Write a job's result that is not JSON to a file."""
    import torch

    torch.save(value, path)


def _common_run_dir(workers: Workers, path: Path | str, resume: bool, hold: contextlib.ExitStack) -> RunDir:
    """Begin a run directory on worker 0, which holds it, and open it on the others; they get one alike if need be."""
    resume = resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0

    def begin() -> str:
        if resume and Path(path, "run.json").exists():
            begun = RunDir.open(path)
        else:
            begun = RunDir.create(path, {"num_workers": workers.num_workers})
        hold.enter_context(begun.held())
        return json.dumps({"path": str(begun.path), "description": dict(begun.description)})

    told = json.loads(workers.broadcast_from_0(begin))
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
