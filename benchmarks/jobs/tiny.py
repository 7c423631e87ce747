"""A job of about two milliseconds a step, to measure what a turn costs by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.loop import train


def loss_of(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the mean squared error."""
    x, y = batch
    return functional.mse_loss(model(x), y)


def tiny(steps: int, width: int = 192, batch: int = 256, seed: int = 0, **options: Any) -> float:
    """Train a perceptron of three layers."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 16))
    batches = [(torch.randn(batch, width), torch.randn(batch, 16)) for _ in range(4)]
    return train(model, lambda p: torch.optim.SGD(p, lr=0.01), loss_of, batches, steps, **options)
