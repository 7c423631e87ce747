"""Loops whose gradients are aggregated, compared with sums that they make themselves. Imported by the workers only."""

from __future__ import annotations

import copy
import os
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from motet.running import run


def added_up(mine: Tensor) -> Tensor:
    """Return the average of what all workers give, added by worker number."""
    size = dist.get_world_size()
    scaled = mine * (1.0 / size)
    gathered = [torch.empty_like(scaled) for _ in range(size)]
    dist.all_gather(gathered, scaled)
    total = gathered[0].clone()
    for term in gathered[1:]:
        total += term
    return total


def loop(dtype: torch.dtype, width: int, view: bool) -> int:
    """Compare what arrives in ``grad`` with what this worker reckons; return how many gradients were compared."""
    torch.manual_seed(dist.get_rank())
    plain = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3)).to(dtype)
    for parameter in plain.parameters():
        dist.broadcast(parameter.data, 0)
    model = DistributedDataParallel(copy.deepcopy(plain), bucket_cap_mb=0.001, gradient_as_bucket_view=view)
    compared = 0
    for _ in range(5):
        x = torch.randn(4, 6, dtype=dtype)
        plain.zero_grad()
        model.zero_grad()
        plain(x).square().mean().backward()
        model(x).square().mean().backward()
        for mine, other in zip(plain.parameters(), model.parameters(), strict=True):
            assert mine.grad is not None
            assert other.grad is not None
            assert torch.equal(added_up(mine.grad), other.grad)
            compared += 1
    return compared


def aggregate(aggregators: list[int] | None) -> dict[str, Any]:
    """Run several such loops at once; return how many gradients each compared, and any error."""
    jobs = {
        f"{dtype}-{width}-{view}".removeprefix("torch."): partial(loop, dtype, width, view)
        for dtype, width, view in [
            (torch.float32, 40, False),
            (torch.float32, 300, True),
            (torch.float32, 100_000, False),  # several chunks
            (torch.float64, 40, True),
            (torch.bfloat16, 40, False),
            (torch.float16, 40, False),
        ]
    }
    results = run(jobs, sync="aggregate", aggregators=aggregators)
    return {name: results[name].error or results[name].result for name in jobs}


def must_be_refused(**options: Any) -> str:
    """Return what the user is told."""
    try:
        run({"a": partial(os.getpid)}, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"
