"""A profile of jobs whose costs are known roughly. Imported by the workers only."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from motet.handle import current_job
from motet.jobs import Job
from motet.profiling import profile


def loop(width: int = 8, slow: float = 0.0, turns: int | None = None) -> None:
    """Train for ever; on worker 1 each step takes ``slow`` seconds longer."""
    if turns is not None:
        current_job().expect(turns=turns)
    model = DistributedDataParallel(nn.Linear(8, width))
    while True:
        if dist.get_rank() == 1:
            time.sleep(slow)
        model(torch.randn(4, 8)).square().mean().backward()


def profiled() -> dict[str, Any]:
    """Return the profile in its JSON form."""
    jobs = [
        Job("quick", partial(loop, turns=30)),
        Job("slow", partial(loop, slow=0.02)),
        Job("large", partial(loop, width=200_000)),
    ]
    found, results = profile(jobs, num_turns=4)
    assert found is not None, {name: job.error for name, job in results.jobs.items()}
    assert {job.status for job in results.jobs.values()} == {"stopped"}
    return found.to_json()
