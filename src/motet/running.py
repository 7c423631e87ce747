"""``motet.run``: train jobs together on the workers that are there. Every worker calls it alike."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TextIO, Unpack

from motet.checkpoints import resuming
from motet.checkpoints.earlier_costs import CostKeeper
from motet.checkpoints.gang import SavingGang, wait_for_published
from motet.checkpoints.policy import Disks, RecoveryPolicy
from motet.checkpoints.transfer import hand_in_attempts
from motet.config import RunConfig, RunOptions
from motet.errors import UsageError
from motet.events import Observer
from motet.gradients.aggregation.choose import Aggregation
from motet.jobs import Job
from motet.jobs.source import JobSource, ListedJobs
from motet.jobs.surroundings import JobSurroundings
from motet.memory.offload import Transfers
from motet.output.per_job import JobOutput
from motet.pipeline import JobHooks, Pipeline
from motet.processes.process_job import ProcessJob, refuse_compressed
from motet.processes.run import run_in_processes
from motet.processes.search import Search
from motet.results import JobResult, Results
from motet.run_dir import RunDir
from motet.schedule.order import Order
from motet.schedule.replanner import Replanner
from motet.torch_versions import check
from motet.workers import Workers
from motet.workers.sockets import VARIABLE


@dataclass(frozen=True)
class Show:
    """Where jobs' lines appear (stdout, stderr), and how Motet itself says something, where that is not the default."""

    streams: tuple[TextIO, TextIO]
    notify_user: Callable[[str], None]


def run(
    jobs: Mapping[str, Callable[[], object]] | Sequence[Job],
    *,
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
    resume: bool = False,
    config: RunConfig | None = None,
    **options: Unpack[RunOptions],
) -> Results:
    """Train several jobs on the workers of this process group and return what came of them.

    ``jobs``: callables without arguments, by name, or `Job` records. Called under torchrun it uses the workers it finds
    (and a process group that is there already); called by itself it is a single worker.
    ``run_dir``: where logs, results and checkpoints go. With ``resume`` it may hold this run already, which then goes
    on: jobs that have ended are not run again, the others go on from their checkpoints (``only``: those that are
    named). Workers that torch elastic started again resume in any case.

    ``options`` are those of ``motet run``, by the names of `RunConfig`'s fields, which says what each may be; they go
    over those of ``config``. Among them: ``order``, a cyclic sequence of names (``"a,b,a,c"``, or ``"round-robin"``) to
    keep to; by default it is determined from what the jobs' turns cost. ``at_once``: how many run together;
    the others join as earlier ones end. ``compress="bf16"``: gradients are sent as bfloat16, of jobs that do not say
    otherwise. ``sync="aggregate"``: one worker sums gradients and sends the sums back, each in turn or those of
    ``aggregators``. ``seed``: each job begins with random numbers of its own on each worker, which follow from this
    seed and its name; None: with the state of the generators that the caller has left.

    A job that fails on all workers raises nothing: its status shows it. Raises `UsageError` for bad arguments before
    anything is started, `GangError` if something goes wrong between the workers. Afterwards torch is as it was.
    """
    whole = RunConfig.of(options, "motet.run", config, known=RunOptions)
    return run_jobs(jobs, whole, run_dir=run_dir, observers=observers, resume=resume)


def run_jobs(
    jobs: Mapping[str, Callable[[], object]] | Sequence[Job],
    config: RunConfig,
    *,
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
    resume: bool = False,
    show: Show | None = None,
    aggregation: Callable[[Workers], Aggregation] | None = None,
    transfers: Transfers | None = None,
) -> Results:
    """Do what `run` does. ``aggregation`` and ``transfers`` stand in for what ``config`` says of these."""
    listed = _listed(jobs)
    config = config.for_jobs([job.name for job in listed])
    if config.compress is not None:
        listed = [dataclasses.replace(job, compress=job.compress or config.compress) for job in listed]
    if config.house == "process":
        for job in listed:
            refuse_compressed(job.name, job.compress)
        return run_in_processes(
            [ProcessJob(job.name, job.call, None, job.turns, job.cwd, job.env) for job in listed],
            config,
            partial(_run_dir_of, run_dir, config, resume),
            observers=observers,
            streams=show.streams if show else None,
            notify_user=show.notify_user if show else _on_stderr,
        )
    if config.aggregators == "dedicated" and aggregation is None:
        raise UsageError(
            'aggregators="dedicated" sets a worker aside before the others join: use motet run, or motet.launch; here, '
            "give the numbers of the workers that sum"
        )
    return _run(
        lambda workers: ListedJobs(listed),
        config,
        Replanner(None if config.order is None else Order(tuple(config.order)), [job.name for job in listed]),
        run_dir=run_dir,
        observers=observers,
        resume=resume,
        show=show,
        aggregation=aggregation or partial(_aggregation, config),
        transfers=transfers,
    )


def run_source(
    make_source: Callable[[Workers], JobSource],
    config: RunConfig,
    *,
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
) -> Results:
    """Train the jobs that a source gives, ``config.at_once`` of them at once, until it gives no more.

    ``make_source`` is called on every worker alike once the workers are joined; its source names at least the first
    job, if there is one at all. Everything else is as in `run`.
    """
    return _run(make_source, config, None, run_dir=run_dir, observers=observers)


def run_search(
    search: Search,
    config: RunConfig,
    *,
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
) -> Results:
    """Do what `run_source` does for jobs that live in processes of their own."""
    return run_in_processes(
        search, config, partial(_run_dir_of, run_dir, config, False), observers=observers, notify_user=_on_stderr
    )


def run_planned(
    jobs: Sequence[Job],
    planning: Replanner,
    config: RunConfig,
    *,
    run_dir: RunDir | Path | str | None = None,
    show: Show | None = None,
) -> Results:
    """Train jobs, all together, in the order that ``planning`` decides. Everything else is as in `run`."""
    return _run(lambda workers: ListedJobs(jobs), config, planning, run_dir=run_dir, show=show)


def _run(
    make_source: Callable[[Workers], JobSource],
    config: RunConfig,
    planning: Replanner | None,
    *,
    run_dir: RunDir | Path | str | None,
    observers: Sequence[Observer] = (),
    resume: bool = False,
    show: Show | None = None,
    aggregation: Callable[[Workers], Aggregation | None] = lambda workers: None,
    transfers: Transfers | None = None,
) -> Results:
    """Put the parts together and run them."""
    notice = check()
    begin = time.perf_counter()
    workers = Workers.join(timeout_seconds=config.timeout_seconds)
    orderly = begun = False
    hold = contextlib.ExitStack()  # of a directory that is given as a path; otherwise whoever made it holds it
    try:
        folder = _run_dir_of(run_dir, config, resume, workers, hold)
        if folder is not None:
            workers.watch.write_down_in(folder.state_path(workers.worker))
        hooks = _hooks(workers, folder, config, show)
        if notice is not None:
            hooks.notify_user(notice)
        try:
            aggregates = aggregation(workers)
            source = make_source(workers)
            _make_room(workers, source, config, hooks.notify_user)
        except UsageError:
            orderly = True
            raise
        names = list(source.names)
        resume_state = _leave_out_ended(source, folder, workers, config)
        if not source.names:
            orderly = True
            return Results(dict(resume_state.ended), workers.num_workers, time.perf_counter() - begin)
        planning = planning or Replanner(None, source.names)
        observers = [*observers, *_cost_keepers(planning, source, workers, folder, config)]
        pipeline = Pipeline(
            source,
            planning,
            config,
            workers,
            hooks,
            observers,
            aggregation=aggregates,
            recovery=_recovery(workers, folder, resume_state, hooks.notify_user),
            transfers=transfers,
        )
        begun = True  # from here on the pipeline publishes it
        results = pipeline.run()
        if aggregates is not None:
            aggregates.close()
        orderly = True
        return _with_ended(results, resume_state.ended, names)
    except BaseException as error:
        if not begun:
            workers.board.publish_exit(f"worker {workers.worker} has left the run: {type(error).__name__}: {error}")
        raise
    finally:
        hold.close()
        workers.leave(orderly=orderly)


def _hooks(workers: Workers, folder: RunDir | None, config: RunConfig, show: Show | None) -> JobHooks:
    """Return what is done for each job: its output, its surroundings, its folder."""
    job_dir = (lambda name: None) if folder is None else folder.job_dir
    output = JobOutput(workers.worker, job_dir, everybody=config.verbose, streams=show.streams if show else None)
    surroundings = JobSurroundings(workers.worker, config.seed)

    def start_job(job: Job) -> None:
        output.start(job.name)
        surroundings.begin(job)

    return JobHooks(job_dir, start_job, output.end, show.notify_user if show else output.notify_user)


def _cost_keepers(
    planning: Replanner, source: JobSource, workers: Workers, folder: RunDir | None, config: RunConfig
) -> list[Observer]:
    """Have ``planning`` know what an earlier run's turns cost; return what keeps this one's costs, on worker 0."""
    if folder is None or not isinstance(source, ListedJobs):
        return []
    keeper = CostKeeper(folder, config, workers.num_workers, lambda: planning.known)
    planning.know(keeper.find_on_0(workers.broadcast_from_0, source.names), source.turns)
    return [keeper] if workers.worker == 0 else []


def _with_ended(results: Results, ended: Mapping[str, JobResult], names: Sequence[str]) -> Results:
    """Return ``results`` with the jobs that an earlier start has ended, in the order of ``names``."""
    jobs = {**ended, **results.jobs}
    ordered = [*names, *(name for name in jobs if name not in names)]
    return dataclasses.replace(results, jobs={name: jobs[name] for name in ordered if name in jobs})


def _make_room(workers: Workers, source: JobSource, config: RunConfig, notify_user: Callable[[str], None]) -> None:
    """See to it that there may be sockets enough for the jobs that train at once; `UsageError` if there may not."""
    at_once = config.at_once if isinstance(config.at_once, int) else max(1, len(source.names))
    workers.make_room(min(at_once, max(1, len(source.names))) if isinstance(source, ListedJobs) else at_once)
    if workers.connects_jobs_lazily and VARIABLE not in os.environ:
        notify_user(
            "sockets from every worker to every other for each job would exceed the limit of open files: the jobs' "
            "process groups connect workers when they first exchange something. A job whose isend() must never wait "
            f"needs a higher limit (ulimit -n), or {VARIABLE}=0"
        )


def _leave_out_ended(
    source: JobSource, folder: RunDir | None, workers: Workers, config: RunConfig
) -> resuming.ResumeState:
    """Leave out of ``source`` the jobs that an earlier start of the run has ended; return what came of that start."""
    if folder is None or not isinstance(source, ListedJobs):
        return resuming.ResumeState()
    names = list(source.names)
    hand_in_attempts(workers, folder, names)
    resume_state = resuming.inspect_on_0(workers.broadcast_from_0, folder, names, config)
    source.leave_out(resume_state.ended)
    return resume_state


def _aggregation(config: RunConfig, workers: Workers) -> Aggregation | None:
    """Return who aggregates; None for an all-reduce."""
    if config.sync == "all-reduce":
        return None
    assert config.aggregators != "dedicated"
    return Aggregation(workers.worker, workers.num_workers, config.aggregators)


def _recovery(
    workers: Workers, folder: RunDir | None, resume_state: resuming.ResumeState, notify_user: Callable[[str], None]
) -> RecoveryPolicy:
    """Return what the pipeline does with what it learns about jobs, so that a later start knows."""
    if folder is None:
        return RecoveryPolicy()
    start = workers.broadcast_from_0(lambda: uuid.uuid4().hex)

    def keep_result(name: str, result: JobResult) -> None:
        if workers.worker == 0:
            resuming.keep_or_notify(folder, name, result, save_result, notify_user)

    def record_failure(name: str, turn: int, error: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: then the job is tried once more than it should be
            resuming.record_failure(folder, name, start, workers.worker, turn, error)

    return RecoveryPolicy(
        checkpoints=folder.checkpoints_dir,
        disks=Disks(folder.separate_disks, folder.own_disk),
        endings=resuming.endings(folder, save_result),
        keep_result=keep_result,
        record_failure=record_failure,
        withdraw_failure=lambda name: resuming.withdraw_failure(folder, name, start, workers.worker),
        starting_again=resume_state.starting_again,
        run_dir=folder.path,
    )


def save_result(value: object, file: IO[bytes]) -> None:
    """Write a job's result that is not JSON to a file."""
    import torch

    torch.save(value, file)


def _on_stderr(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"motet: {text}\n")


def _run_dir_of(
    given: RunDir | Path | str | None, config: RunConfig, resume: bool, gang: SavingGang, hold: contextlib.ExitStack
) -> RunDir | None:
    return _common_run_dir(gang, given, config, resume, hold) if isinstance(given, (str, Path)) else given


def _common_run_dir(
    workers: SavingGang, path: Path | str, config: RunConfig, resume: bool, hold: contextlib.ExitStack
) -> RunDir:
    """Begin a run directory on worker 0, which holds it, and open it on the others; they get one alike if need be."""
    resume = resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0

    def begin() -> str:
        if resume and Path(path, "run.json").exists():
            begun = RunDir.open(path)
        else:
            begun = RunDir.create(path, {"num_workers": workers.num_workers, **config.to_json()})
        hold.enter_context(begun.held())
        return json.dumps({"path": str(begun.path), "description": dict(begun.description), "probe": begun.probe()})

    opened = json.loads(workers.broadcast_from_0(begin, key="run directory"))
    own_disk = False
    if workers.worker == 0:
        found = RunDir.open(opened["path"])
    else:
        found = RunDir.join(opened["path"], opened["description"])[0]
        own_disk = not found.is_probed(opened["probe"])
        workers.publish(f"own disk/{workers.worker}", "yes" if own_disk else "")

    def any_own() -> str:
        answers = [wait_for_published(workers, f"own disk/{worker}") for worker in range(1, workers.num_workers)]
        return "yes" if any(answers) else ""

    separate_disks = bool(workers.broadcast_from_0(any_own, key="separate disks"))
    found.lies_apart(separate_disks=separate_disks, own_disk=own_disk)
    return found


def _listed(jobs: Mapping[str, Callable[[], object]] | Sequence[Job]) -> list[Job]:
    listed = [Job(name, call) for name, call in jobs.items()] if isinstance(jobs, Mapping) else list(jobs)
    if not listed:
        raise UsageError("there is no job to run: give at least one")
    names = [job.name for job in listed]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two jobs are called '{doubled[0]}'; give each a name of its own")
    return listed
