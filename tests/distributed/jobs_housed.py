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

from motet.events import Event, JobStarted, MemoryMeasured
from motet.gradients import JobGradients
from motet.memory import HostMemory
from motet.offload import HostTransfers, Offload
from motet.running import run


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


def idle_jobs_rest() -> dict[str, Any]:
    """Run five jobs with state that rests between turns; return what differs, and how much was moved."""
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
        results = run(jobs, offload=transfers)
    found = [line for name in jobs for line in differences(results[name].result, expected[name], name)]
    errors = [job.error for job in results.jobs.values() if job.error]
    return {"differences": found, "errors": errors, "moved": moved, "places": transfers.num_moved}


def loops_rest(names: dict[str, str]) -> list[str]:
    """Run loops of the other tests with state that rests; return what differs from running alone."""
    expected = {job: alone(name) for job, name in names.items()}
    seed_everything()
    results = run({job: find(name) for job, name in names.items()}, offload=HostTransfers())
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
        mock.patch("motet.memory.MemoryMeter.need_bytes", return_value=need),
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
    """Run loops with all gradients on the group of all workers, as on NCCL; return what differs, and what was issued.

    Buckets are on the CPU here; what is tried is the rule that makes one group safe: the same order everywhere.
    """
    expected = {job: alone(name) for job, name in names.items()}
    issued: list[str] = []
    keep = JobGradients._keep

    def kept(self: JobGradients, model: Any, bucket: Any, buffer: Tensor, *rest: Any) -> None:
        issued.append(f"{self.job} {buffer.numel()}")
        keep(self, model, bucket, buffer, *rest)

    seed_everything()
    with (
        mock.patch("motet.workers.one_communicator", return_value=True),
        mock.patch.object(JobGradients, "_lane", lambda self, buffer: self.device_lane),
        mock.patch.object(JobGradients, "_keep", kept),
    ):
        results = run({job: find(name) for job, name in names.items()})
    errors = [f"{name}: {job.error}" for name, job in results.jobs.items() if job.error]
    found = errors + [line for job in names for line in differences(results[job].result, expected[job], job)]
    return {"differences": found, "issued": issued}
