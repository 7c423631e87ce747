"""Runs whose jobs are measured, admitted by memory, and rest elsewhere between their turns. For workers only."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any
from unittest import mock

import torch
from tests.distributed.identity import alone, differences, find, run_alone, seed_everything
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from motet.config import RunConfig
from motet.events import Event, JobStarted, MemoryMeasured
from motet.gradients import JobGradients
from motet.intercept.buffers import BufferSync
from motet.memory.footprint import HostMemory
from motet.memory.offload import HostTransfers, Offload
from motet.running import run, run_jobs
from motet.workers import Workers


class Poisoned(HostTransfers):
    """Copies between two places in main memory, and notes whether anything was moved."""

    def __init__(self) -> None:
        self.num_moved = 0

    def place(self, num_bytes: int) -> Tensor:
        self.num_moved += 1
        return super().place(num_bytes)


def wide(width: int = 96, view: bool = False, steps: int = 6, **options: Any) -> list[Tensor]:
    """Train a model with BatchNorm and Adam; return parameters, buffers, gradients and the optimizer's state."""
    torch.manual_seed(width)
    model = nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 64))
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.01, gradient_as_bucket_view=view, **options)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=width % 2 == 0)
        ddp(torch.randn(16, 64)).square().mean().backward()
        optimizer.step()
    state = [part for entry in optimizer.state.values() for part in entry.values()]
    return [*model.state_dict().values(), *(p.grad for p in model.parameters()), *state]  # type: ignore[list-item]


def large(depth: int = 3, steps: int = 6) -> list[Tensor]:
    """Train layers so large that their buckets stand in the gradients' place while they are in flight (ADR 12)."""
    torch.manual_seed(depth)
    model = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(depth)))
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.3)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=False)
        ddp(torch.randn(8, 256)).square().mean().backward()
        optimizer.step()
    return [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)]


def large_jobs_offloaded() -> dict[str, Any]:
    """Run three large jobs with state that is offloaded; return what differs, and what was moved in a turn of each."""
    jobs = {f"large{depth}": partial(large, depth) for depth in (2, 3, 4)}
    expected = {name: run_alone(job) for name, job in jobs.items()}
    moved: dict[str, int] = {}
    put_away = Offload.put_away

    def counted(self: Offload, job: str, tensors: Iterable[Tensor]) -> int:
        moved[job] = put_away(self, job, tensors)
        return moved[job]

    seed_everything()
    with mock.patch.object(Offload, "put_away", counted):
        results = run_jobs(jobs, RunConfig(), transfers=HostTransfers())
    errors = [f"{name}: {job.error}" for name, job in results.jobs.items() if job.error]
    found = errors + [line for name in jobs for line in differences(results[name].result, expected[name], name)]
    return {"differences": found, "moved": moved}


def idle_on_the_cpu() -> dict[str, Any]:
    """Ask for what only a device can do; return what differs, what the user was told, and how often state was moved."""
    jobs = {name: partial(wide, 96 + number) for number, name in enumerate("abc")}
    expected = {name: run_alone(job) for name, job in jobs.items()}
    seed_everything()
    with mock.patch.object(Offload, "put_away") as put_away:
        results = run(jobs, offload="idle")
    found = [line for name in jobs for line in differences(results[name].result, expected[name], name)]
    return {"differences": found, "notices": list(results.notices), "moves": put_away.call_count}


def idle_jobs_offloaded() -> dict[str, Any]:
    """Run five jobs with state that is offloaded between turns; return what differs, and how much was moved."""
    jobs = {
        "plain": partial(wide, 96),
        "views": partial(wide, 128, view=True),
        "unused": partial(wide, 97, find_unused_parameters=True),
        "short": partial(wide, 98, steps=3),
        "long": partial(wide, 99, steps=9),
    }
    expected = {name: run_alone(job) for name, job in jobs.items()}
    transfers = Poisoned()
    seed_everything()
    moved: list[int] = []
    put_away = Offload.put_away

    def counted(self: Offload, job: str, tensors: Iterable[Tensor]) -> int:
        moved.append(put_away(self, job, tensors))
        return moved[-1]

    with mock.patch.object(Offload, "put_away", counted):
        results = run_jobs(jobs, RunConfig(), transfers=transfers)
    found = [line for name in jobs for line in differences(results[name].result, expected[name], name)]
    errors = [job.error for job in results.jobs.values() if job.error]
    return {"differences": found, "errors": errors, "moved": moved, "places": transfers.num_moved}


def loops_offloaded(names: dict[str, str]) -> list[str]:
    """Run loops of the other tests with state that is offloaded; return what differs from running alone."""
    expected = {job: alone(name) for job, name in names.items()}
    seed_everything()
    results = run_jobs({job: find(name) for job, name in names.items()}, RunConfig(), transfers=HostTransfers())
    errors = [f"{name}: {job.error}" for name, job in results.jobs.items() if job.error]
    return errors + [line for job in names for line in differences(results[job].result, expected[job], job)]


class Seen:
    def __init__(self) -> None:
        self.started: list[str] = []
        self.most = 0
        self.live: set[str] = set()
        self.measured: list[MemoryMeasured] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, JobStarted):
            self.live.add(event.job)
            self.most = max(self.most, len(self.live))
        elif isinstance(event, MemoryMeasured):
            self.measured.append(event)
        elif type(event).__name__ == "JobEnded":
            self.live.discard(event.job)  # type: ignore[attr-defined]


def admitted_by_memory(free_by_worker: list[list[float]]) -> dict[str, Any]:
    """Run four jobs with ``at_once="auto"``; the memory that is free, in jobs, is told by worker and question."""
    import torch.distributed as dist

    answers = iter(free_by_worker[dist.get_rank()])
    need = 1_000_000

    def available(self: HostMemory) -> int:
        return round(next(answers, 0.0) * need)

    seen = Seen()
    with (
        mock.patch.object(HostMemory, "available_bytes", available),
        mock.patch.object(HostMemory, "total_bytes", return_value=need),
        mock.patch("motet.memory.footprint.MemoryMeter.need_bytes", return_value=need),
    ):
        results = run({name: partial(wide, 96 + i) for i, name in enumerate("abcd")}, at_once="auto", observers=[seen])
    return {
        "statuses": [job.status for job in results.jobs.values()],
        "most": seen.most,
        "notices": [notice for notice in results.notices if "auto" in notice],
        "memory": results["a"].memory,
        "measured": [event.job for event in seen.measured],
    }


def everything_on_one_group(names: dict[str, str]) -> dict[str, Any]:
    """Run loops with everything on the group of all workers, as on NCCL; return what differs, and what was issued.

    Gradients, buffers, DDP's own broadcasts and what the loops say to each other are on the CPU here; what is tried is
    the rule that makes one group safe: the same order everywhere.
    """
    expected = {job: alone(name) for job, name in names.items()}
    issued: list[str] = []
    keep, stage = JobGradients._keep, BufferSync._stage

    def staged(self: BufferSync, job: Any, *rest: Any) -> None:
        issued.append(f"{job.name} buffers")
        stage(self, job, *rest)

    def kept(self: JobGradients, model: Any, bucket: Any, *rest: Any) -> None:
        issued.append(f"{self.job} {bucket.buffer.numel()}")
        keep(self, model, bucket, *rest)

    seed_everything()
    with (
        mock.patch("motet.workers.group.one_communicator", return_value=True),
        mock.patch.object(Workers, "acquire_lane", lambda self, **options: self.device_lane),
        mock.patch.object(Workers, "new_broadcast_lane", lambda self: self.device_lane),
        mock.patch.object(JobGradients, "_keep", kept),
        mock.patch.object(BufferSync, "_stage", staged),
    ):
        results = run({job: find(name) for job, name in names.items()})
    errors = [f"{name}: {job.error}" for name, job in results.jobs.items() if job.error]
    found = errors + [line for job in names for line in differences(results[job].result, expected[job], job)]
    return {"differences": found, "issued": issued}


def default_device_elsewhere() -> list[str]:
    """Run loops whose default device, like that of the program around them, is one that holds no numbers.

    What Motet makes for itself on the host must not end up there. Returns what differs from running alone.
    """

    def loop(width: int) -> list[Tensor]:
        torch.set_default_device("meta")
        torch.manual_seed(width)
        model = nn.Sequential(nn.Linear(8, width, device="cpu"), nn.BatchNorm1d(width, device="cpu"))
        ddp = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)  # Adam's steps would be "meta" before 2.13
        for _ in range(6):
            optimizer.zero_grad()
            ddp(torch.randn(4, 8, device="cpu")).square().mean().backward()
            optimizer.step()
        return list(model.state_dict().values())

    jobs = {f"width{width}": partial(loop, width) for width in (40, 41, 42)}
    expected = {}
    try:
        for name, job in jobs.items():
            expected[name] = run_alone(job)
            torch.set_default_device("meta")  # left so, as a program does that names its device once
        results = run_jobs(jobs, RunConfig(), transfers=HostTransfers())
    finally:
        torch.set_default_device(None)  # type: ignore[arg-type]
    errors = [f"{name}: {job.error}" for name, job in results.jobs.items() if job.error]
    return errors + [line for name in jobs for line in differences(results[name].result, expected[name], name)]


class World:
    """A device's time, which passes only when a loop computes or state has to be waited for."""

    seconds = 0.0


class Linked(HostTransfers):
    """Copies at once; keeps the time that a side stream over a link of some rate would need for them."""

    def __init__(self, world: World, bytes_per_second: float) -> None:
        self._world, self._rate, self._busy_until = world, bytes_per_second, 0.0

    def copy(self, target: Tensor, source: Tensor) -> None:
        super().copy(target, source)
        self._busy_until = max(self._busy_until, self._world.seconds) + target.nbytes / self._rate

    def mark(self) -> object:
        return self._busy_until

    def wait(self, mark: object) -> None:
        assert isinstance(mark, float)
        self._world.seconds = max(self._world.seconds, mark)


def device_seconds(
    order: list[str], widths: dict[str, int], computes: dict[str, float], turns: dict[str, int], rate: float
) -> dict[str, Any]:
    """Run jobs whose state is offloaded, in a device's time; return how long that was, and what each moves."""
    world = World()

    def loop(width: int, compute: float, num_turns: int) -> None:
        ddp = DistributedDataParallel(nn.Linear(width, width, bias=False))
        optimizer = torch.optim.SGD(ddp.parameters(), lr=1e-3)  # no state, so that all turns move the same
        for _ in range(num_turns):
            optimizer.zero_grad(set_to_none=False)
            loss = ddp(torch.randn(2, width)).sum()
            world.seconds += compute
            loss.backward()
            optimizer.step()

    jobs = {name: partial(loop, widths[name], computes[name], turns[name]) for name in widths}
    results = run_jobs(jobs, RunConfig(order=order), transfers=Linked(world, rate))
    errors = [job.error for job in results.jobs.values() if job.error]
    assert not errors, errors[0]
    moved = {name: job.memory["offload_bytes"] for name, job in results.jobs.items() if job.memory is not None}
    return {"seconds": world.seconds, "moved": moved}
