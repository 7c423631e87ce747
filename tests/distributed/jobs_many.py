"""Many short jobs one after another, and what their worker holds each time one of them has ended."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

import motet
from motet.events import Event, JobEnded
from motet.running import run

STEPS = 6
LOADING_EVERY = 10  # whose data a process loads


def short(number: int) -> float:
    """Train for a moment, with a checkpoint and whatever else leaves something in a run directory."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # in a process of its own
    torch.manual_seed(number)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.Linear(32, 1)))
    optimizer = torch.optim.AdamW(model.parameters())
    job = motet.current_job()
    job.checkpoint(model=model, optimizer=optimizer, every_turns=4)
    loss = torch.zeros(())
    for (inputs,) in DataLoader(
        TensorDataset(torch.randn(STEPS * 8, 16)), batch_size=8, num_workers=int(number % LOADING_EVERY == 0)
    ):
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        job.log(loss=loss)
    return loss.item()


class Looking:
    """An observer that looks whenever a job has ended: at this process, and at those that it has started."""

    changes_nothing_global = True

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def observe(self, event: Event) -> None:
        """Look at what is held now."""
        if isinstance(event, JobEnded):
            self.seen.append(figures())


def figures() -> dict[str, float]:
    """Return what this process and those that it has started hold."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {
        "MB": sum(each.memory_info().rss for each in family) / 2**20,
        "open files": sum(each.num_fds() for each in family),
        "threads": sum(each.num_threads() for each in family),
        "processes": len(family),
        "groups": len(dist.distributed_c10d._world.pg_map),
    }


def one_after_another(
    folder: str, num_jobs: int, house: Literal["together", "process"]
) -> tuple[dict[str, int], list[dict[str, float]]]:
    """On every worker: run so many jobs; return how many ended in which way, and what was seen after each."""
    looking = Looking()
    jobs: dict[str, Any] = {f"job-{number}": partial(short, number) for number in range(num_jobs)}
    results = run(jobs, at_once=1, house=house, run_dir=Path(folder), observers=[looking])
    return dict(Counter(job.status for job in results.jobs.values())), looking.seen
