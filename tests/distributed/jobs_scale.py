"""What many workers cost: sockets, counted while several jobs train."""

from __future__ import annotations

import functools
import time
from typing import Any

import psutil
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet


def count(num_jobs: int) -> dict[str, Any]:
    """Train jobs for a few turns; return the most sockets that any of them saw, and what start and end took."""
    most: list[int] = []
    begin = time.monotonic()
    begun: list[float] = []
    jobs = {f"job{number}": functools.partial(_train, most, begun) for number in range(num_jobs)}
    results = motet.run(jobs, order="round-robin")
    assert all(job.status == "finished" for job in results.jobs.values()), results
    return {"sockets": max(most), "start": min(begun) - begin, "all": time.monotonic() - begin}


def _train(most: list[int], begun: list[float]) -> None:
    torch.manual_seed(1)
    model = DistributedDataParallel(nn.Linear(8, 8))
    for _ in range(4):
        model(torch.randn(4, 8)).sum().backward()
        begun.append(time.monotonic())
        connections = psutil.Process().net_connections(kind="tcp")
        most.append(sum(1 for each in connections if each.status == psutil.CONN_ESTABLISHED))
