"""The jobs that the chaos suite harms: loops that save, and end with a word that tells their weights to the bit."""

from __future__ import annotations

import hashlib
import time
from typing import Any, Literal

import torch
import torch.distributed as dist
from tests.distributed.identity import run_alone, seed_everything
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import motet
from motet.checkpoints import DataPosition
from motet.running import run

EVERY = {"steps": 7, "epochs": 5, "accumulation": 3}


def ended(model: DistributedDataParallel, optimizer: torch.optim.Optimizer) -> str:
    """Return a word that two ends share only if weights, buffers, optimizer and generators are equal to the bit."""
    sums = hashlib.sha256()

    def take(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            sums.update(value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                sums.update(str(key).encode())
                take(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                take(item)
        else:
            sums.update(repr(value).encode())

    take([model.module.state_dict(), optimizer.state_dict(), torch.rand(3)])
    return sums.hexdigest()


def _model(seed: int) -> DistributedDataParallel:
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # in a process of its own
    torch.manual_seed(seed + dist.get_rank())
    layers = [nn.Linear(6, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 2)]
    return DistributedDataParallel(nn.Sequential(*layers), bucket_cap_mb=0.001)


def by_steps(num_steps: int = 150, pause: float = 0.0) -> str:
    """A range of steps with a schedule, and data from a generator of its own."""
    model = _model(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    draws = torch.Generator().manual_seed(dist.get_rank())
    start = motet.current_job().checkpoint(
        model=model, optimizer=optimizer, schedule=schedule, draws=draws, every_turns=EVERY["steps"]
    )
    print("begins after", int(start))
    for _ in range(start, num_steps):
        time.sleep(pause)
        inputs, labels = torch.randn(4, 6, generator=draws), torch.randint(0, 2, (4,))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
        start.save_point()
    return ended(model, optimizer)


def by_epochs(num_epochs: int = 15, pause: float = 0.0) -> str:
    """Epochs of shuffled batches, whose position says where the loop could start again."""
    model = _model(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = _data(DistributedSampler)
    print("begins after", int(motet.current_job().checkpoint(
        model=model, optimizer=optimizer, data=data, every_turns=EVERY["epochs"]
    )))  # fmt: skip
    for _ in data.epochs(num_epochs):
        for inputs, labels in data:
            time.sleep(pause)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return ended(model, optimizer)


def by_accumulation(num_epochs: int = 6, pause: float = 0.0) -> str:
    """Two batches a turn, the first without synchronization."""
    model = _model(3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = _data(None)
    print("begins after", int(motet.current_job().checkpoint(
        model=model, optimizer=optimizer, data=data, every_turns=EVERY["accumulation"]
    )))  # fmt: skip
    for _ in data.epochs(num_epochs):
        for number, (inputs, labels) in enumerate(data, start=data.batch):
            time.sleep(pause)
            if number % 2 == 0:
                with model.no_sync():
                    F.cross_entropy(model(inputs), labels).backward()
                continue
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return ended(model, optimizer)


def _data(sampler: Any) -> DataPosition[Any]:
    samples = TensorDataset(torch.randn(40, 6, generator=torch.Generator().manual_seed(3)), torch.arange(40) % 2)
    chosen = None if sampler is None else sampler(samples, shuffle=True)
    return DataPosition(DataLoader(samples, batch_size=2, sampler=chosen, shuffle=None if chosen else True))


LOOPS = {"steps": by_steps, "epochs": by_epochs, "accumulation": by_accumulation}


def alone(name: str) -> str:
    """Run a loop alone under plain DDP."""
    return str(run_alone(LOOPS[name]))


def together(
    place: str, pause: float, timeout_seconds: float, house: Literal["together", "process"]
) -> dict[str, tuple[str, Any]]:
    """Begin the run of all loops in a directory, or go on with it; return each job's status and result."""
    if dist.is_initialized():
        seed_everything()
    jobs = {name: lambda loop=loop: loop(pause=pause) for name, loop in LOOPS.items()}  # type: ignore[misc]
    results = run(jobs, run_dir=place, resume=True, timeout_seconds=timeout_seconds, house=house)
    return {name: (job.status, job.result) for name, job in results.jobs.items()}
