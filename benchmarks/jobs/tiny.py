"""A job of about two milliseconds a step, to measure what a turn costs by itself.

Many small layers rather than a few large ones: sixteen such jobs stay in the processor's cache together. What jobs
that do not fit lose to each other's data is the price of taking turns as well, but not of the runtime.
"""

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


def tiny(steps: int, width: int = 16, num_layers: int = 12, batch: int = 32, seed: int = 0, **options: Any) -> float:
    """Train a deep, narrow perceptron."""
    torch.manual_seed(seed)
    layers = [layer for _ in range(num_layers) for layer in (nn.Linear(width, width), nn.LayerNorm(width), nn.ReLU())]
    model = nn.Sequential(*layers)
    batches = [(torch.randn(batch, width), torch.randn(batch, width)) for _ in range(4)]
    return train(model, lambda p: torch.optim.AdamW(p, lr=1e-3), loss_of, batches, steps, **options)
