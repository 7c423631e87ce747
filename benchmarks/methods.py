"""What a worker runs: the same loops, one after another, without overlap, in lock step, or together under Motet.

Every method warms its loops up first and counts from the moment at which all of them are warm and nothing is in flight.
Clocks: `time.perf_counter` counts alike in all processes of one machine.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from greenlet import getcurrent, greenlet
from jobs.loop import WARM_STEPS, Wrap, plain_ddp
from knobs import turned
from sets import SETS, BenchJob
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet
from motet import running
from motet.coroutines import RunningJob
from motet.events import Event, SyncEnded, TurnEnded
from motet.jobs import Job
from motet.pipeline import Pipeline
from motet.profiling import profile


@dataclass
class Measured:
    """One measurement on one worker; ``begin`` and ``end`` in `time.perf_counter` seconds."""

    begin: float = float("inf")
    end: float = 0.0
    cpu_seconds: float = 0.0
    sent_bytes: int = 0
    parts: dict[str, Any] = field(default_factory=dict)


class Meter:
    """Takes note of when the measured part began: when ``num_jobs`` loops are warm."""

    def __init__(self, num_jobs: int = 1, gate: Callable[[], None] | None = None) -> None:
        self.measured = Measured()
        self._missing = num_jobs
        self._gate = gate if gate is not None else dist.barrier
        self._cpu_seconds = 0.0
        self._sent_bytes = 0
        self.give_way: Callable[[], object] = lambda: motet.current_job().yield_turn()

    def ready(self) -> None:
        """Wait until all loops and workers are ready. Called by each loop once."""
        self._missing -= 1
        if self._missing == 0:
            self._gate()
            self._cpu_seconds, self._sent_bytes = time.process_time(), sent_bytes()
            self.measured.begin = time.perf_counter()
        while self._missing > 0:
            self.give_way()

    def ended(self, end: float) -> Measured:
        """Return what was measured up to the end of the last loop."""
        self.measured.end = end
        self.measured.cpu_seconds = time.process_time() - self._cpu_seconds
        self.measured.sent_bytes = sent_bytes() - self._sent_bytes
        return self.measured


class Laps:
    """The moments at which one loop's steps were over."""

    def __init__(self) -> None:
        self._moments: list[float] = []

    def step_over(self) -> None:
        """Note that a step is over."""
        self._moments.append(time.perf_counter())

    def seconds(self, steps: int) -> list[float]:
        """Return how long so many steps in a row took, whichever of them come first."""
        return [end - begin for begin, end in zip(self._moments, self._moments[steps:], strict=False)]


def sent_bytes() -> int:
    """Return how many bytes this worker's side of the network has sent."""
    rows = (line.split() for line in Path("/proc/net/dev").read_text().splitlines()[2:])
    return sum(int(row[9]) for row in rows if row[0] in ("eth0:", "lo:"))


def wrap_with(cap_mb: float | None, **options: Any) -> Wrap:
    """Return how a loop wraps its model: DDP's default options, or buckets of ``cap_mb``."""
    if cap_mb is not None:
        options["bucket_cap_mb"] = cap_mb
    return partial(DistributedDataParallel, **options) if options else plain_ddp


def loop_of(job: BenchJob, units: int, **options: Any) -> Callable[[], float]:
    """Return a job's loop for so many units of work, to be called once."""
    module, _, function = job.loop.partition(":")
    loop = getattr(import_module(f"jobs.{module}"), function)
    return partial(loop, job.steps * units, **job.arguments, **options)


def with_laps(jobs: Mapping[str, BenchJob], units: int, laps: Laps, **options: Any) -> dict[str, Callable[[], float]]:
    """Return the jobs' loops, the first of them with a note of when its steps are over."""
    loops = {}
    for name, job in jobs.items():
        stamp = {} if loops else {"step_over": laps.step_over}
        loops[name] = loop_of(job, units, **options, **stamp)
    return loops


def one_after_another(jobs: Mapping[str, BenchJob], units: int, wrap: Wrap) -> Measured:
    """Plain DDP, one job after another; the times between them are left out.

    ``parts``: as in `together`, of as many steps of one job as there are jobs.
    """
    total = Measured(begin=0.0, parts={"laps": []})
    for job in jobs.values():
        meter, laps = Meter(), Laps()
        measured = meter.ended(loop_of(job, units, wrap=wrap, ready=meter.ready, step_over=laps.step_over)())
        total.parts["laps"] += laps.seconds(len(jobs))
        total.end += measured.end - measured.begin
        total.cpu_seconds += measured.cpu_seconds
        total.sent_bytes += measured.sent_bytes
    return total


def one_job(jobs: Mapping[str, BenchJob], units: int, wrap: Wrap, name: str, gate: Callable[[], None]) -> Measured:
    """One job of a set under plain DDP, while other processes train the others."""
    meter = Meter(gate=gate)
    return meter.ended(loop_of(jobs[name], units, wrap=wrap, ready=meter.ready)())


def together(jobs: Mapping[str, BenchJob], units: int, wrap: Wrap, **options: Any) -> Measured:
    """All jobs under Motet.

    ``parts``: what each of the ``jobs`` took; ``laps``, seconds from one step of the first job to its next: a round.
    """
    meter, laps = Meter(len(jobs)), Laps()
    loops = with_laps(jobs, units, laps, wrap=wrap, ready=meter.ready)
    listed = [Job(name, loop, turns=WARM_STEPS + jobs[name].steps * units) for name, loop in loops.items()]
    results = running.run(listed, **options)
    failed = [f"{r.status}: {r.error}" for r in results.jobs.values() if r.status != "finished"]
    if failed:
        raise RuntimeError(f"a job failed:\n{failed[0]}")
    measured = meter.ended(max(result.result for result in results.jobs.values()))
    took = {
        name: {"compute": r.compute_seconds, "sync": r.sync_seconds, "hidden": r.hidden_seconds}
        for name, r in results.jobs.items()
    }
    measured.parts = {"jobs": took, "laps": laps.seconds(1)}
    return measured


class Spans:
    """An observer that keeps what each turn computed and how long its gradients were in flight, in seconds."""

    changes_nothing_global = True

    def __init__(self) -> None:
        self.turns: list[tuple[str, int, float, float]] = []
        self.syncs: list[tuple[str, int, float, float, float]] = []

    def observe(self, event: Event) -> None:
        """Keep begin and end of a turn; of a sync when it left, arrived, and began to be waited for."""
        if isinstance(event, TurnEnded):
            self.turns.append((event.job, event.turn, event.begin, event.time))
        elif isinstance(event, SyncEnded):
            self.syncs.append((event.job, event.turn, event.launched, event.completed, event.wait_begin))


def bare_turns(jobs: Mapping[str, BenchJob], units: int, wrap: Wrap) -> Measured:
    """Plain DDP loops that take turns after each backward, and nothing else: what interleaving costs by itself."""
    hub, whole = getcurrent(), torch.autograd.backward
    meter, laps = Meter(len(jobs)), Laps()
    meter.give_way = hub.switch

    def backward(*args: Any, **kwargs: Any) -> None:
        whole(*args, **kwargs)
        hub.switch()

    loops = [greenlet(loop) for loop in with_laps(jobs, units, laps, wrap=wrap, ready=meter.ready).values()]
    torch.autograd.backward = backward
    try:
        while loops:
            for loop in loops:
                end = loop.switch()
            loops = [loop for loop in loops if not loop.dead]
    finally:
        torch.autograd.backward = whole
    measured = meter.ended(end)
    measured.parts = {"laps": laps.seconds(1)}
    return measured


class LockStep(Pipeline):
    """Stages with a barrier: one job computes while the one before it synchronizes; both must be done.

    As published for interleaving jobs of different needs; on Motet's runtime, so that only the barrier differs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._before: tuple[RunningJob | None, list[Any]] = None, []

    def _take_turn(self, job: RunningJob, throw: BaseException | None = None) -> None:
        job_before, buckets = self._before
        super()._take_turn(job, throw)
        waits = self._waits.for_gradients("the stage", job.turn)
        for bucket in buckets if job_before is not job else ():  # its own have arrived, and are on their way again
            waits(bucket)
        self._before = job, list(job.gradients._in_flight)


@contextmanager
def lock_step() -> Iterator[None]:
    """Run Motet with barriers between stages inside the block."""
    original = running.Pipeline
    running.Pipeline = LockStep  # type: ignore[misc]
    try:
        yield
    finally:
        running.Pipeline = original  # type: ignore[misc]


def profiled(jobs: Mapping[str, BenchJob], wrap: Wrap, **options: Any) -> Measured:
    """What ``motet plan`` measures, as ``parts``; the loops are stopped after a few turns."""
    listed = [Job(name, loop_of(job, 10**6, wrap=wrap)) for name, job in jobs.items()]
    found, results = profile(listed, **options)
    if found is None:
        raise RuntimeError(f"a job failed:\n{[job.error for job in results.jobs.values()]}")
    return Measured(begin=0.0, parts=found.to_json())


def solo_costs(jobs: Mapping[str, BenchJob], units: int, cap_mb: float | None) -> Measured:
    """What each job's step costs alone: computing with no network; its buckets' sync with nothing else to do.

    ``parts``: for each job ``compute`` and ``sync`` seconds, ``transfer_cpu`` seconds for which a sync keeps this
    worker's core busy, ``process_cpu`` those of them that are this process's own, ``bytes``, each a step.
    """
    total = Measured(begin=0.0)
    for name, job in jobs.items():
        sizes: dict[int, tuple[int, torch.dtype]] = {}
        meter = Meter()
        loop = loop_of(job, units, wrap=partial(_without_network, sizes, cap_mb), ready=meter.ready)
        measured = meter.ended(loop())
        steps = job.steps * units
        part = {"compute": (measured.end - measured.begin) / steps, "steps_a_unit": job.steps}
        part |= _sync_costs(list(sizes.values()), steps)
        total.parts[name] = part
    return total


def _without_network(sizes: dict[int, tuple[int, torch.dtype]], cap_mb: float | None, model: nn.Module) -> nn.Module:
    def hook(_, bucket):  # type: ignore[no-untyped-def]  # DDP does not understand annotations that are text
        buffer = bucket.buffer()
        if bucket.index() == 0:
            sizes.clear()
        sizes[bucket.index()] = (buffer.numel(), buffer.dtype)
        buffer.mul_(1.0 / dist.get_world_size())
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(buffer)
        return future

    ddp = wrap_with(cap_mb, forward_sync_buffers=False)(model)
    ddp.register_comm_hook(None, hook)
    return ddp


def _sync_costs(sizes: list[tuple[int, torch.dtype]], steps: int) -> dict[str, float]:
    buckets = [torch.zeros(numel, dtype=dtype) for numel, dtype in sizes]

    def synchronize() -> None:
        for work in [dist.all_reduce(bucket, async_op=True) for bucket in buckets]:
            work.wait()

    synchronize()
    core, sharing = shared_core()
    dist.barrier()
    begin, cpu, idle = time.perf_counter(), time.process_time(), idle_seconds(core)
    for _ in range(steps):
        synchronize()
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    busy = max(0.0, seconds - (idle_seconds(core) - idle)) / sharing
    return {
        "sync": seconds / steps,
        "transfer_cpu": max(cpu, busy) / steps,
        "process_cpu": cpu / steps,
        "bytes": sum(bucket.numel() * bucket.element_size() for bucket in buckets),
        "buckets": len(buckets),
    }


def shared_core() -> tuple[int, int]:
    """Return the core that this worker is held to, and how many workers are held to it. Collective."""
    cores: list[list[int]] = [[]] * dist.get_world_size()
    dist.all_gather_object(cores, sorted(os.sched_getaffinity(0)))
    own = cores[dist.get_rank()]
    return own[0], cores.count(own)


def idle_seconds(core: int) -> float:
    """Return for how long a core has been idle since the machine started.

    What the kernel does for the network (sending, receiving, holding to a rate) is in no process's time, or in that of
    whichever process it interrupts; it is not idling.
    """
    rows = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    _, _, _, _, idle, waiting, *_ = next(row for row in rows if row[0] == f"cpu{core}")
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")


def measure(command: Mapping[str, Any], gate: Callable[[], None]) -> Measured:
    """Do what a command asks for. ``gate`` waits for the other processes of a side-by-side run."""
    jobs, units, method = SETS[command["set"]], command["units"], command["method"]
    if command.get("jobs"):
        jobs = {name: jobs[name] for name in command["jobs"]}
    cap_mb = command.get("cap_mb")
    wrap = wrap_with(cap_mb)
    if method == "ddp":
        return one_after_another(jobs, units, wrap)
    if method == "bare turns":
        return bare_turns(jobs, units, wrap)
    if method == "no overlap":
        return one_after_another(jobs, units, wrap_with(1e6))  # one bucket: it leaves when backward is over
    if method == "side by side":
        return one_job(jobs, units, wrap, command["job"], gate)
    if method == "lock step":
        with lock_step():
            return together(jobs, units, wrap, **command.get("options", {}))
    if method == "motet":
        with turned(command.get("knobs", {})):
            return together(jobs, units, wrap, **command.get("options", {}))
    if method == "watched":
        spans = Spans()
        measured = together(jobs, units, wrap, observers=[spans], **command.get("options", {}))
        measured.parts = {"begin": measured.begin, "end": measured.end, "turns": spans.turns, "syncs": spans.syncs}
        return measured
    if method == "profile":
        return profiled(jobs, wrap, **command.get("options", {}))
    if method == "costs":
        return solo_costs(jobs, units, cap_mb)
    raise ValueError(f"no method {method!r}")
