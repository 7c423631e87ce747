"""What each worker process runs: ``python -m motet.entry RUN_DIR``.

It reads the description of the run, builds the jobs, gives them to the pipeline, and worker 0 writes what came of it.

Exit status: 0 when all workers agree on an outcome, also on failed or stopped jobs (so that one bad job restarts
nothing); 2 when the run was wrong from the start; 4 when something went wrong between workers; 1 for an error that
should not have happened.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from motet.checkpoints.resuming import begin_or_go_on, options_of_start
from motet.config import DEFAULTS, RunConfig
from motet.errors import (
    MotetError,
    SyncTimeoutError,
    UnsupportedError,
    UsageError,
    WorkerFailedError,
    WorkerLostError,
    pack_error,
    unpack_error,
)
from motet.jobs import Job, JobSpec, check_cwd, fill_in
from motet.launcher.ends import ENDS, IMPORTS, JOINS, WRITES
from motet.launcher.notebook_status import StatusFile
from motet.launcher.parcel import unpack
from motet.parent import end_with_parent, flush_open_files
from motet.results import Results
from motet.run_dir import RunDir, shown_path, write_whole

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

    from motet.events import Observer
    from motet.gradients.aggregation.choose import Aggregation
    from motet.integrations.trackers import Tracker
    from motet.observe import Progress
    from motet.processes.process_job import ProcessJob
    from motet.workers import Workers

FINISHED, BROKEN, REFUSED, GANG_FAILED = 0, 1, 2, 4
_held: list[object] = []


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run this worker's part and end the process."""
    end_with_parent()
    parser = argparse.ArgumentParser(prog="python -m motet.entry", description=__doc__.split("\n")[0])
    parser.add_argument("run_dir", help="the run directory, begun by the launcher")
    parser.add_argument("--parcel", help="a private file with the jobs, where they are Python callables")
    parser.add_argument("--separate-disks", action="store_true", help="some host does not see worker 0's directory")
    parser.add_argument("--own-disk", action="store_true", help="this host does not see worker 0's directory")
    parser.add_argument("--config", help="JSON: the options of this start of the run, in place of those in run.json")
    parser.add_argument("--status-file", action="store_true", help="write how far jobs are into a file, for a notebook")
    options = parser.parse_args(argv)
    _leave_signals_to_the_launcher()
    if (attempt := os.environ.pop("MOTET_ATTEMPT", None)) is not None:
        os.environ["TORCHELASTIC_RESTART_COUNT"] = attempt

    def find() -> tuple[RunDir, bool, RunConfig]:
        run_dir, config = open_here()
        run_dir.lies_apart(separate_disks=options.separate_disks, own_disk=options.own_disk)
        return run_dir, worker() == 0 or (options.own_disk and os.environ.get("LOCAL_RANK") == "0"), config

    def open_here() -> tuple[RunDir, RunConfig]:
        run_dir = RunDir.open(options.run_dir)
        content = run_dir.description if options.config is None else json.loads(options.config)
        return run_dir, RunConfig.from_json(content, run_dir.path / "run.json")

    def calls() -> Mapping[str, Callable[[], object]]:
        return unpack(Path(options.parcel).read_bytes()) if options.parcel else {}

    end(work(find, calls, launched=True, status_file=options.status_file)[0])


def worker() -> int:
    """Return this worker's number."""
    return int(os.environ.get("RANK", "0"))


def work(
    find: Callable[[], tuple[RunDir, bool, RunConfig]],
    calls: Callable[[], Mapping[str, Callable[[], object]]] = dict,
    *,
    launched: bool,
    status_file: bool = False,
) -> tuple[int, Results | None, RunDir | None]:
    """Take part in the run in the directory that ``find`` gives.

    ``find`` also returns whether this worker writes results, and the options of this start of the run.
    Returns the exit status of this process and, where the run came to an outcome, the results and the directory. An
    error is shown once: by the launcher if this worker was ``launched`` by one, otherwise here.
    """
    run_dir: RunDir | None = None
    try:
        run_dir, writes, config = find()
        run_dir.error_path(worker()).unlink(missing_ok=True)
        run_dir.write_state(worker(), IMPORTS)
        trackers = _trackers(run_dir, config)
        results = _run(run_dir, config, calls(), trackers, status_file=status_file)
        run_dir.write_state(worker(), WRITES if writes else ENDS)
        if writes:
            _write_results(run_dir, results)
            _attach_report(run_dir, trackers)
            run_dir.write_state(worker(), ENDS)
    except MotetError as error:
        refused = isinstance(error, UsageError | UnsupportedError)
        _report_error(error, run_dir if launched else None, everyone=not (refused or error.from_worker_0))
        return (REFUSED if refused else GANG_FAILED), None, run_dir
    except KeyboardInterrupt:  # before the pipeline could take it for a request to stop
        return BROKEN, None, run_dir
    except BaseException as error:
        sys.stderr.write(f"motet: worker {worker()} met an error of its own:\n{traceback.format_exc()}")
        _keep_for_the_launcher(error, run_dir if launched else None)
        return BROKEN, None, run_dir
    return FINISHED, results, run_dir


def _keep_for_the_launcher(error: BaseException, run_dir: RunDir | None) -> None:
    """Leave an error of Motet's own for the launcher: where it was met, and how far jobs were."""
    where = [note for note in getattr(error, "__notes__", ()) if note.startswith("worker ")]
    text = where[-1] if where else f"worker {worker()}: {type(error).__name__}: {error}"
    kept = WorkerFailedError(text)
    kept.turns = dict(getattr(error, "turns", {}))
    if run_dir is not None:
        _report_error(kept, run_dir, everyone=True)


def _write_results(run_dir: RunDir, results: Results) -> None:
    """Write ``results.json``; on a full disk say so, and end well: everything else of the run has gone well."""
    from motet.running import save_result

    try:
        run_dir.write_results(results, save_result)
    except OSError as error:
        sys.stderr.write(f"motet: results.json could not be written: {error}\n")


def _trackers(run_dir: RunDir, config: RunConfig) -> list[Tracker]:
    """Return the trackers that were asked for by name."""
    if not config.trackers:
        return []
    from motet.integrations.trackers import named_tracker

    return [named_tracker(name, run_dir.path, run_dir.description["id"]) for name in config.trackers]


def _attach_report(run_dir: RunDir, trackers: Sequence[Tracker]) -> None:
    """Give the trackers the report, on worker 0."""
    if not trackers or worker() != 0:
        return
    from motet.observe import build_report

    try:
        report = build_report(run_dir.path)
        for tracker in trackers:
            tracker.attach_report(report)
    except Exception as error:  # a tracker harms nobody
        sys.stderr.write(f"motet: a tracker did not take the report ({type(error).__name__}: {error})\n")


def _run(
    run_dir: RunDir,
    config: RunConfig,
    calls: Mapping[str, Callable[[], object]],
    trackers: Sequence[Tracker],
    *,
    status_file: bool,
) -> Results:
    """Build the jobs and let the pipeline run them."""
    description, quiet = run_dir.description, config.quiet or status_file
    if worker() == 0 and not quiet:
        _report_phase("the workers have started and import torch")
    from motet.gradients.aggregation.server import set_one_aside
    from motet.observe import MetricsWriter, Progress, TraceRecorder
    from motet.running import Show, run_jobs

    aggregation = None
    if config.aggregators == "dedicated":
        store, aside = set_one_aside()
        if aside:
            return _aggregate_only(store)
        aggregation = partial(_served, store)
    if worker() == 0 and not quiet:
        _report_phase("the workers join each other")
    progress = Progress(quiet=quiet, logs=run_dir.shown_log, verbose=config.verbose)
    status = [StatusFile(run_dir.path)] if status_file else []
    observers: list[Observer] = [progress, MetricsWriter(run_dir.path), TraceRecorder(run_dir.path), *status, *trackers]
    show = Show((_above(progress, sys.stdout), _above(progress, sys.stderr)), notify_user=lambda text: None)
    if config.house == "process" and "profile" not in description:
        from motet.processes.run import run_in_processes

        run_dir.write_state(worker(), JOINS)
        housed = [_process_job(run_dir, data, calls) for data in description["jobs"]]
        return run_in_processes(housed, config, lambda peers, hold: run_dir, observers=observers, streams=show.streams)
    jobs = [_job(run_dir, data, calls) for data in description["jobs"]]
    run_dir.write_state(worker(), JOINS)
    if "profile" in description:
        return _profile(run_dir, jobs, description["profile"])
    return run_jobs(jobs, config, run_dir=run_dir, observers=observers, show=show, aggregation=aggregation)


def _job(run_dir: RunDir, data: Mapping[str, Any], calls: Mapping[str, Callable[[], object]]) -> Job:
    """Return a job of the run: what its program gave for it, or what ``run.json`` says."""
    name = data["name"]
    if name in calls:
        cwd = check_cwd(data.get("cwd"), f"job {name!r}")
        cwd = cwd and fill_in(cwd, name, run_dir.job_dir(name))
        return Job(name, calls[name], data.get("turns"), data.get("compress"), cwd)
    if data["kind"] == "python":
        raise UsageError(f"job {name!r} is Python code of a program: start it again with motet.launch there")
    return JobSpec.from_json(data).filled(run_dir.job_dir(name)).job()


def _process_job(run_dir: RunDir, data: Mapping[str, Any], calls: Mapping[str, Callable[[], object]]) -> ProcessJob:
    """Return a job of the run for a process of its own, which imports by itself what it needs."""
    from motet.processes.process_job import ProcessJob, refuse_compressed

    if data["kind"] == "python":
        job = _job(run_dir, data, calls)
        return ProcessJob(job.name, job.call, None, job.turns, job.cwd)
    spec = JobSpec.from_json(data).filled(run_dir.job_dir(data["name"]))
    refuse_compressed(spec.name, spec.compress)
    return ProcessJob(spec.name, None, spec.to_json(), spec.turns, spec.cwd, spec.env)


def _report_phase(text: str) -> None:
    """Say what takes its time before the progress has anything to show."""
    sys.stderr.write(f"motet: {text}\n")
    sys.stderr.flush()


def _served(store: Store, workers: Workers) -> Aggregation:
    from motet.gradients.aggregation.choose import ServedAggregation

    return ServedAggregation(workers.worker, workers.num_workers, store)


def _aggregate_only(store: Store) -> Results:
    """Sum gradients for the others until they have ended; they decide about stops."""
    from motet.gradients.aggregation.server import serve

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not serve(store, int(os.environ["WORLD_SIZE"]) - 1):
        raise WorkerLostError("The worker that only aggregates lost the connection to another worker.")
    return Results(jobs={}, num_workers=int(os.environ["WORLD_SIZE"]) - 1, wall_seconds=0.0)


def _profile(run_dir: RunDir, jobs: Sequence[Job], options: Mapping[str, Any]) -> Results:
    """Let the jobs take a few turns for ``motet plan``; worker 0 leaves what they cost in ``profile.json``."""
    from motet.profiling import profile
    from motet.running import Show

    with open(os.devnull, "w", encoding="utf-8") as nowhere:  # their lines are in their logs
        show = Show((nowhere, nowhere), notify_user=lambda text: None)
        found, results = profile(jobs, num_turns=options["turns"], run_dir=run_dir, show=show)
    if worker() == 0 and found is not None:
        write_whole(run_dir.path / "profile.json", json.dumps(found.to_json()))
    return results


def _above(progress: Progress, stream: TextIO) -> TextIO:
    """Let what goes to the terminal that shows the progress appear above it."""
    return progress.as_stream() if stream.isatty() and sys.stderr.isatty() else stream


def begin_together(
    begin: Callable[[], tuple[RunDir, RunConfig]],
) -> tuple[RunDir, bool, RunConfig]:
    """Let worker 0 ``begin`` the run, or go on with it, and all others join it; returns what `work` takes.

    What worker 0 meets is everybody's error. Worker 0 holds the run for as long as its process lives. Blocks until it
    has begun. Needs the torchrun environment. Where no file system is shared, other machines get a copy of the run
    directory.
    """
    from motet.workers.meeting import meet, wait_for_all

    store, rank, size = meet()
    _held.append(store)  # worker 0 may be its host: it has to live as long as this process
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    key = f"motet/begin/{attempt}"
    if rank == 0:
        try:
            wait_for_all(store, f"motet/here/{attempt}", rank, size, _report_phase)
            run_dir, config = begin()
            hold = run_dir.held()
            hold.__enter__()
            _held.append(hold)
        except BaseException as error:  # whatever it is: the others wait for a message
            store.set(key, json.dumps({"error": pack_error(error)}))
            raise
        begun = {"path": str(run_dir.path), "description": dict(run_dir.description), "config": config.to_json()}
        store.set(key, json.dumps(begun))
        return run_dir, True, config
    wait_for_all(store, f"motet/here/{attempt}", rank, size, _report_phase)
    message = _wait_for_begin(store, key)
    if "error" in message:
        raise unpack_error(message["error"])
    return *RunDir.join(message["path"], message["description"]), RunConfig.from_json(message["config"])


def _wait_for_begin(store: Store, key: str) -> dict[str, Any]:
    """Return what worker 0 leaves under ``key``; looks for it now and then, so that signals are handled meanwhile."""
    deadline = time.monotonic() + DEFAULTS.timeout_seconds
    try:
        while not store.check([key]):
            if time.monotonic() > deadline:
                raise SyncTimeoutError(f"Worker 0 has not begun the run within {DEFAULTS.timeout_seconds:.0f} s.")
            time.sleep(0.02)
        message: dict[str, Any] = json.loads(store.get(key))
    except RuntimeError as error:
        raise WorkerLostError(f"Worker {worker()} lost worker 0 before the run had begun: {error}") from error
    return message


def begin_or_find(
    place: Path | None, description: Mapping[str, Any], *, fresh: bool = False, seed: int | None = None
) -> tuple[RunDir, RunConfig]:
    """Begin a run in ``place``, or go on with it; return the options of this start, too.

    Workers that were started again find the run that the first attempt began, also where that was a fresh one.
    """
    launch = os.environ.get("TORCHELASTIC_RUN_ID")
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        beside = [place, *place.parent.glob(f"{glob.escape(place.name)}-*/")] if place is not None else []
        candidates = beside or sorted(Path("runs").glob("*/"), reverse=True)
        for candidate in candidates:
            if (candidate / "run.json").exists():
                found = RunDir.open(candidate)
                if found.description.get("launch") == launch:
                    return found, options_of_start(found, description)
    run_dir, goes_on = begin_or_go_on(place, {**description, "launch": launch}, fresh=fresh, seed=seed)
    config = options_of_start(run_dir, description)
    if not config.quiet:
        what = "this run has begun before, and goes on" if goes_on else "begins"
        sys.stderr.write(f"motet: run directory {shown_path(run_dir.path)}: {what}\n")
    return run_dir, config


def _report_error(error: MotetError, run_dir: RunDir | None, *, everyone: bool) -> None:
    """Leave ``error`` for the launcher, or print it: from every worker, or from worker 0 alone."""
    if run_dir is not None:
        try:
            message = {"type": type(error).__name__, "text": str(error), "turns": dict(getattr(error, "turns", {}))}
            write_whole(run_dir.error_path(worker()), json.dumps(message))
            return
        except OSError:
            pass  # a full disk: say it here
    if everyone or worker() == 0:
        where = f"worker {worker()}: " if everyone else ""
        sys.stderr.write(f"motet: {where}{error}\n")


def _leave_signals_to_the_launcher() -> None:
    """Ignore what the launcher takes for a request to stop and passes on; it has held it back until here."""
    passed_on = (signal.SIGUSR1, signal.SIGUSR2)
    for number in passed_on:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)


def end_together(status: int, results: Results | None) -> NoReturn:
    """End a worker that was started from outside: torchrun restarts on a failure, others see the run's status."""
    from motet.launcher.outcome import exit_status
    from motet.workers.meeting import is_task, part

    if is_task():
        status = exit_status(results) if status == FINISHED and results is not None else status
        part()
    end(status)


def end(status: int) -> NoReturn:
    """End this process at once.

    Not by returning: threads of process groups whose peers are gone, and of jobs' own groups, can hold up the end of
    the interpreter for minutes, or crash it. What matters is written by now; so are files that a script left open,
    as at the end of a process of its own.
    """
    flush_open_files()
    os._exit(status)


if __name__ == "__main__":
    main()
