"""The training loop that all jobs share: what any tutorial shows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

WARM_STEPS = 4  # DDP lays its buckets out anew after the first

Wrap = Callable[[nn.Module], nn.Module]
Batch = tuple[Tensor, ...]


def plain_ddp(model: nn.Module) -> nn.Module:
    """Wrap a model with DDP's default options."""
    return DistributedDataParallel(model)


def train(
    model: nn.Module,
    make_optimizer: Callable[[Any], Optimizer],
    loss_of: Callable[[nn.Module, Batch], Tensor],
    batches: Sequence[Batch],
    steps: int,
    wrap: Wrap = plain_ddp,
    ready: Callable[[], None] = lambda: None,
    step_over: Callable[[], None] = lambda: None,
) -> float:
    """Train; return when the last of ``steps`` steps was done. Those before ``ready`` was called do not count."""
    model = wrap(model)
    optimizer = make_optimizer(model.parameters())
    for step in range(WARM_STEPS + steps):
        if step == WARM_STEPS:
            ready()
        optimizer.zero_grad()
        loss = loss_of(model, batches[step % len(batches)])
        loss.backward()
        optimizer.step()
        loss.item()
        if step >= WARM_STEPS:
            step_over()
    return time.perf_counter()
