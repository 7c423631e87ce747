"""Train jobs in processes of their own: the parts put together (`run_in_processes`)."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TextIO

import torch
import torch.distributed as dist

from motet.checkpoints import resuming
from motet.checkpoints.earlier_costs import CostKeeper
from motet.config import OnSameFile, RunConfig
from motet.errors import UsageError
from motet.events import Observer
from motet.processes.decider import Decider
from motet.processes.exchange import Exchange
from motet.processes.failures import Failures
from motet.processes.forking import SEARCH
from motet.processes.gang import ProcessGang
from motet.processes.imports import import_ahead
from motet.processes.job_messages import Start
from motet.processes.local import LocalJobs
from motet.processes.loop import WorkerLoop
from motet.processes.messages import FailRequest
from motet.processes.openmp import end_openmp_threads
from motet.processes.peers import Peers
from motet.processes.process_job import ProcessJob
from motet.processes.record import Record
from motet.processes.room import Room, num_sharing
from motet.processes.search import ListedSource, LivelySource, Search, Source
from motet.processes.switches import Switches
from motet.processes.turn_table import MAX_SEATS, Table
from motet.processes.warm_parent import WarmParent
from motet.results import JobResult, Results
from motet.run_dir import RUNS, RunDir
from motet.schedule.costs import Cost
from motet.schedule.order import Order
from motet.workers.interruption import Interruption
from motet.workers.sockets import jobs_connect_lazily, make_room


def run_in_processes(
    jobs: Sequence[ProcessJob] | Search,
    config: RunConfig,
    find_run_dir: Callable[[Peers, contextlib.ExitStack], RunDir | None] = lambda peers, hold: None,
    *,
    observers: Sequence[Observer] = (),
    streams: tuple[TextIO, TextIO] | None = None,
    notify_user: Callable[[str], None] = lambda text: None,
) -> Results:
    """Train ``jobs``, each in a process of its own on this worker, and return what came of them.

    ``find_run_dir`` gives the run directory once the workers have joined, and may hold it until the end.
    Called on every worker alike, before this process has any thread of a process group. Raises `UsageError` for what
    this housing cannot do, `GangError` if something goes wrong between the workers.
    """
    listed = () if isinstance(jobs, Search) else jobs
    at_once = config.at_once if isinstance(config.at_once, int) else None
    _check_housing(at_once)
    begin = time.perf_counter()
    num_seats = min(at_once or MAX_SEATS, MAX_SEATS if isinstance(jobs, Search) else len(jobs))
    table = Table(num_seats, strict=config.strict_order)
    asked, *wake = (os.eventfd(0, os.EFD_CLOEXEC) for _ in range(1 + num_seats))
    import_module("torch._dynamo")  # what every job would otherwise import by itself
    import_module("motet.processes.job")
    import_ahead(listed)
    num_workers = ProcessGang.size()
    make_room(1, num_workers, lazily=jobs_connect_lazily(1, num_workers))  # which jobs' processes find as it is here
    end_openmp_threads()
    calls = {job.name: job.call for job in listed if job.call is not None}
    parent = WarmParent.fork({SEARCH: jobs.train} if isinstance(jobs, Search) else calls)
    hold = contextlib.ExitStack()
    try:
        gang = ProcessGang.join(config.timeout_seconds)
        run_dir = find_run_dir(gang.peers, hold)
        names = [job.name for job in listed]
        before = resuming.ResumeState()
        if run_dir is not None and listed:
            broadcast = partial(gang.peers.broadcast_from_0, key="resume state")
            before = resuming.inspect_on_0(broadcast, run_dir, names, config)
        left = [job for job in listed if job.name not in before.ended]
        source = jobs.make_source(gang.peers) if isinstance(jobs, Search) else ListedSource(left)
        if not gang.peers.broadcast_from_0(lambda: "".join(source.names[:1]) if source else "", key="first"):
            gang.leave()
            return Results(dict(before.ended), gang.num_workers, time.perf_counter() - begin)
        start = gang.peers.broadcast_from_0(lambda: uuid.uuid4().hex, key="start")
        deciding = LivelySource(source, gang.exchange) if source is not None and isinstance(jobs, Search) else source
        parts = _Parts(config, gang, run_dir, table, tuple(wake), asked, start)
        local = parts.local_jobs(parent, streams or (sys.stdout, sys.stderr))
        decider: Decider | None = None
        if deciding is not None and gang.worker == 0:
            costs: dict[str, Cost] = {}
            if run_dir is not None and listed:
                keeper = CostKeeper(run_dir, config, gang.num_workers, lambda: decider.known_costs if decider else {})
                costs, observers = keeper.find(names), [*observers, keeper]
            decider = parts.decider(deciding, names, num_seats, local.show, costs)
        loop = WorkerLoop(
            left,
            gang.exchange,
            local,
            decider,
            parts.start_message,
            parts.record(left, before.starting_again, observers, notify_user),
            Interruption(config.stop_after_seconds),
            config.timeout_seconds,
        )
        if run_dir is not None:
            run_dir.write_state(gang.worker, RUNS)
        results = loop.run()
        if isinstance(jobs, Search):
            jobs.ended(gang.peers)
        gang.leave()
        merged = {**before.ended, **results.jobs}
        ordered = [*names, *(name for name in merged if name not in names)]
        return dataclasses.replace(results, jobs={name: merged[name] for name in ordered if name in merged})
    finally:
        hold.close()
        parent.close()
        table.close()
        for file in (asked, *wake):
            os.close(file)


@dataclass(frozen=True)
class _Parts:
    """Builds the parts of a run from what all of them are about. ``start``: what tells this start from earlier ones."""

    config: RunConfig
    gang: ProcessGang
    run_dir: RunDir | None
    table: Table
    wake: tuple[int, ...]
    asked: int
    start: str

    def local_jobs(self, parent: WarmParent, shown_on: tuple[TextIO, TextIO]) -> LocalJobs:
        """Return what starts the jobs' processes on this worker, and reads from them."""
        job_dir = (lambda name: None) if self.run_dir is None else self.run_dir.job_dir
        worker, everybody = self.gang.worker, self.config.verbose
        return LocalJobs(parent, self.table, self.wake, self.asked, worker, job_dir, shown_on, everybody=everybody)

    def decider(
        self,
        source: Source,
        names: Sequence[str],
        num_seats: int,
        show: Callable[[str, str], None],
        costs: Mapping[str, Cost],
    ) -> Decider:
        """Return what decides for all workers, on worker 0."""
        return Decider(
            self.gang.exchange,
            source,
            None if self.config.order is None else Order(tuple(self.config.for_jobs(names).order or ())),
            num_seats,
            self.config.at_once == "auto",
            Failures(self.run_dir, self.start, self.config.max_job_failures).charge,
            show,
            Switches(lambda: self.table.counted) if self.config.strict_order else None,
            costs,
        )

    def record(
        self,
        jobs: Sequence[ProcessJob],
        starting_again: Collection[str],
        observers: Sequence[Observer],
        notify_user: Callable[[str], None],
    ) -> Record:
        """Return what keeps what this worker knows of its jobs."""
        exchange, on_same_file = self.gang.exchange, self.config.on_same_file
        return Record(
            jobs,
            Room(num_sharing(self.gang.num_workers), by_memory=self.config.at_once == "auto"),
            observers,
            notify_user,
            partial(_keep, self.run_dir, self.gang.worker, notify_user),
            starting_again,
            on_same_file,
            partial(_fail_for_file, exchange, on_same_file),
            None if self.gang.worker == 0 else exchange.report,
        )

    def start_message(self, job: ProcessJob, seat: int, attempt: int) -> Start:
        """Return all that a job's process has to know."""
        gang, config, run_dir = self.gang, self.config, self.run_dir
        folder = None if run_dir is None else run_dir.job_dir(job.name)
        return Start(
            name=job.name,
            seat=seat,
            attempt=attempt,
            worker=gang.worker,
            num_workers=gang.num_workers,
            table=self.table.fd,
            wake=self.wake,
            strict=config.strict_order,
            channel=-1,
            prefix=f"{gang.prefix}/jobs",
            spec=job.spec,
            given=job.given,
            asks=self.asked,
            turns=job.turns,
            cwd=job.cwd,
            env=job.env,
            environment=gang.environment,
            run_dir=None if run_dir is None else str(run_dir.path),
            job_dir=None if folder is None else str(folder),
            checkpoints=None if run_dir is None else str(run_dir.checkpoints_dir),
            seed=config.seed,
            on_nan=config.on_nan,
            start=self.start,
            timeout_seconds=config.timeout_seconds,
            separate_disks=run_dir is not None and run_dir.separate_disks,
            own_disk=run_dir is not None and run_dir.own_disk,
            share_frozen=config.share_frozen == "on",
        )


def _check_housing(at_once: int | None) -> None:
    if torch.cuda.is_initialized():
        raise UsageError(
            "a process for each job is forked, and this program has used a device already, which cannot be forked: "
            "call motet.run before, use motet run or motet.launch, or house='together'"
        )
    if sys.platform != "linux":
        raise UsageError(f"a process for each job needs Linux, not {sys.platform}: use --house together")
    if dist.is_initialized():
        raise UsageError(
            "a process for each job starts before there is a process group, and this program has made one already: "
            "call motet.run first, or use house='together'"
        )
    if at_once is not None and at_once > MAX_SEATS:
        raise UsageError(f"a process for each job: at most {MAX_SEATS} at once, not {at_once}; give --at-once")


def _keep(
    run_dir: RunDir | None, worker: int, notify_user: Callable[[str], None], name: str, result: JobResult
) -> None:
    if run_dir is not None and worker == 0:
        resuming.keep_or_notify(run_dir, name, result, torch.save, notify_user)


def _fail_for_file(exchange: Exchange, on_same_file: OnSameFile, name: str, why: str) -> None:
    text = f"job '{name}' {why}; it was ended, as --on-same-file {on_same_file} asks"
    exchange.report(FailRequest(name, text, stops_run=on_same_file == "error"))
