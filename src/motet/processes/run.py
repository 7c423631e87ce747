"""Train jobs in processes of their own: the parts put together (`run_in_processes`)."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import socket
import sys
import sysconfig
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TextIO

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is: torch documents it
from torch.distributed.rendezvous import rendezvous

from motet.checkpoints import resuming
from motet.config import RunConfig
from motet.errors import UsageError
from motet.events import Observer
from motet.processes.decider import Decider
from motet.processes.ends import Verdict
from motet.processes.exchange import Exchange
from motet.processes.local import LocalJobs
from motet.processes.loop import ProcessJob, WorkerLoop
from motet.processes.messages import Start
from motet.processes.parent import WarmParent
from motet.processes.peers import Peers
from motet.processes.turn_table import MAX_SEATS, Table
from motet.results import JobResult, Results
from motet.run_dir import RunDir
from motet.schedule.order import Order
from motet.workers.interruption import Interruption

JOIN_SECONDS = 600.0
LOOPBACK = "127.0.0.1"
_num_runs = 0


def run_in_processes(
    jobs: Sequence[ProcessJob],
    config: RunConfig,
    find_run_dir: Callable[[Peers, contextlib.ExitStack], RunDir | None] = lambda peers, hold: None,
    *,
    observers: Sequence[Observer] = (),
    streams: tuple[TextIO, TextIO] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Results:
    """Train ``jobs``, each in a process of its own on this worker, and return what came of them.

    ``find_run_dir`` gives the run directory once the workers have joined, and may hold it until the end.
    Called on every worker alike, before this process has any thread of a process group. Raises `UsageError` for what
    this housing cannot do, `GangError` if something goes wrong between the workers.
    """
    at_once = None if config.at_once is None else int(config.at_once)
    _check_housing(at_once)
    begin = time.perf_counter()
    num_seats = min(at_once or len(jobs), len(jobs), MAX_SEATS)
    table = Table(num_seats, strict=config.strict_order)
    wake = tuple(os.eventfd(0, os.EFD_CLOEXEC) for _ in range(num_seats))
    import_module("torch._dynamo")  # what every job would otherwise import by itself
    import_module("motet.processes.job")
    _import_what_jobs_import(jobs)
    worker, num_workers = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    parent = WarmParent.fork({job.name: job.call for job in jobs if job.call is not None})
    hold = contextlib.ExitStack()
    try:
        global _num_runs
        _num_runs += 1
        prefix = f"motet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{_num_runs}"
        shared, environment = _join()
        store = PrefixStore(prefix, shared)
        peers = Peers(PrefixStore("run", store), worker, num_workers, config.timeout_seconds)
        run_dir = find_run_dir(peers, hold)
        names = [job.name for job in jobs]
        standing = resuming.ResumeState()
        if run_dir is not None:
            standing = resuming.inspect_on_0(partial(peers.broadcast_from_0, key="standing"), run_dir, names, config)
        left = [job for job in jobs if job.name not in standing.ended]
        if not left:
            _leave_together(peers)
            return Results(dict(standing.ended), num_workers, time.perf_counter() - begin)
        start_word = peers.broadcast_from_0(lambda: uuid.uuid4().hex, key="start")

        def make_start(job: ProcessJob, seat: int, attempt: int) -> Start:
            folder = None if run_dir is None else run_dir.job_dir(job.name)
            return Start(
                name=job.name,
                seat=seat,
                attempt=attempt,
                worker=worker,
                num_workers=num_workers,
                table=table.fd,
                wake=wake,
                strict=config.strict_order,
                channel=-1,
                prefix=f"{prefix}/jobs",
                spec=job.spec,
                turns=job.turns,
                cwd=job.cwd,
                env=job.env,
                environment=environment,
                run_dir=None if run_dir is None else str(run_dir.path),
                job_dir=None if folder is None else str(folder),
                checkpoints=None if run_dir is None else str(run_dir.checkpoints_dir),
                seed=config.seed,
                on_nan=config.on_nan,
                start=start_word,
                timeout_seconds=config.timeout_seconds,
                separate_disks=run_dir is not None and run_dir.separate_disks,
                own_disk=run_dir is not None and run_dir.own_disk,
            )

        exchange = Exchange(PrefixStore("exchange", store), worker, num_workers)
        job_dir = (lambda name: None) if run_dir is None else run_dir.job_dir
        local = LocalJobs(
            parent, table, wake, worker, job_dir, streams or (sys.stdout, sys.stderr), everybody=config.verbose
        )
        decider = None
        if worker == 0:
            decider = Decider(
                exchange,
                [job.name for job in left],
                None if config.order is None else Order(tuple(config.for_jobs(names).order or ())),
                num_seats,
                lambda name: config.max_job_failures,
                lambda name, verdict: _charge(run_dir, name, start_word, verdict),
                {job.name: job.turns for job in left},
            )
        loop = WorkerLoop(
            left,
            exchange,
            local,
            table,
            wake,
            decider,
            make_start,
            observers,
            tell,
            Interruption(config.stop_after_seconds),
            lambda name, result: _keep(run_dir, worker, name, result, tell),
            config.timeout_seconds,
            config.on_same_file,
            standing.starting_again,
        )
        if run_dir is not None:
            run_dir.write_state(worker, "running jobs")
        results = loop.run()
        _leave_together(peers)
        merged = {**standing.ended, **results.jobs}
        return Results(
            {name: merged[name] for name in names if name in merged},
            num_workers,
            results.wall_seconds,
            results.bound_seconds,
            results.efficiency,
            results.notices,
            results.startup_seconds,
        )
    finally:
        hold.close()
        parent.close()
        for file in wake:
            os.close(file)


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


def _join() -> tuple[Store, dict[str, str]]:
    """Return the store that all workers of the gang share, and what jobs need in their environment to find it."""
    served = {"TORCHELASTIC_USE_AGENT_STORE": "True"}  # by an agent, or by worker 0: not by a job
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        listener = socket.create_server((LOOPBACK, 0))
        port = listener.getsockname()[1]
        # The store owns the descriptor from here on. Left to itself it would listen on all interfaces.
        store = TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
        here = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": LOOPBACK}
        return store, {**here, **served, "MASTER_PORT": str(port)}
    shared: Store = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))[0]
    return shared, served


def _charge(run_dir: RunDir | None, name: str, start: str, verdict: Verdict) -> None:
    if run_dir is not None:
        with contextlib.suppress(OSError):  # a full disk: then the job is tried once more than it should be
            resuming.record_failure(run_dir, name, start, verdict.worker or 0, verdict.turns + 1, verdict.error or "")


def _keep(run_dir: RunDir | None, worker: int, name: str, result: JobResult, tell: Callable[[str], None]) -> None:
    if run_dir is not None and worker == 0:
        resuming.keep_or_tell(run_dir, name, result, torch.save, tell)


def _leave_together(peers: Peers) -> None:
    """Keep the store's host until all workers have read their last message."""
    if peers.num_workers == 1:
        return
    peers.publish(f"left/{peers.worker}", "")
    deadline = time.monotonic() + 10
    while peers.worker == 0 and time.monotonic() < deadline:
        if all(peers.lookup(f"left/{worker}") is not None for worker in range(peers.num_workers)):
            return
        time.sleep(0.005)


def _import_what_jobs_import(jobs: Sequence[ProcessJob]) -> None:
    """Import here, once for all, the installed packages that scripts import at their tops.

    Only down to a script's first other statement: what it sets before an import may be meant for that import.
    """
    scripts = [Path(job.spec["target"]) for job in jobs if job.spec and job.spec["kind"] == "script"]
    for path in dict.fromkeys(scripts):
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            for name in _first_imports(path):
                if _is_installed(name) and not any(_is_beside(name, script.parent) for script in scripts):
                    with contextlib.suppress(Exception, SystemExit):
                        import_module(name)


def _first_imports(script: Path) -> list[str]:
    names: list[str] = []
    for statement in ast.parse(script.read_bytes()).body:
        if isinstance(statement, ast.Import):
            names += [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0 and statement.module:
            names.append(statement.module)
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            break
    return [name for name in names if name != "__future__"]


def _is_installed(name: str) -> bool:
    """Whether a name is Python's or an installed package's, wherever a script looks it up."""
    first = name.partition(".")[0]
    if first in sys.stdlib_module_names:
        return True
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(first)
        places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
        return any(place.startswith((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))) for place in places)
    return False


def _is_beside(name: str, folder: Path) -> bool:
    """Whether a name is a script's own: of a file or a folder beside it."""
    first = name.partition(".")[0]
    return (folder / first).exists() or (folder / f"{first}.py").exists()
