"""A small residual net with BatchNorm: compute-heavy, few gradients, buffers that travel too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.loop import train


class Residual(nn.Module):
    """Two convolutions, each normalised, and a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, height, height) -> the same."""
        return functional.relu(x + self.layers(x))


def residual_net(width: int, num_blocks: int) -> nn.Module:
    """Return a classifier of 16x16 colour images into ten classes."""
    stem = [nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]
    return nn.Sequential(*stem, *(Residual(width) for _ in range(num_blocks)), *head)


def loss_of(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the mean cross-entropy."""
    images, labels = batch
    return functional.cross_entropy(model(images), labels)


def conv_net(steps: int, width: int = 128, num_blocks: int = 4, batch: int = 8, seed: int = 0, **options: Any) -> float:
    """Train a residual net."""
    torch.manual_seed(seed)
    model = residual_net(width, num_blocks)
    batches = [(torch.randn(batch, 3, 16, 16), torch.randint(10, (batch,))) for _ in range(4)]
    return train(model, lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), loss_of, batches, steps, **options)
