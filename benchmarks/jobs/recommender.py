"""Two towers over large embedding tables: little to compute, and nearly all gradients come at the very end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.loop import train


class Recommender(nn.Module):
    """Scores users against items by the product of what two towers say of them."""

    def __init__(self, num_users: int, num_items: int, width: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(num_users, width), nn.Embedding(num_items, width)
        self.user_tower, self.item_tower = (
            nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)) for _ in range(2)
        )

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        """(batch,), (batch,) -> scores (batch, batch)."""
        return self.user_tower(self.users(users)) @ self.item_tower(self.items(items)).T


def loss_of(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the cross-entropy of finding each user's item among those of the batch."""
    users, items = batch
    return functional.cross_entropy(model(users, items), torch.arange(len(users)))


def recommender(
    steps: int,
    num_users: int = 40_000,
    num_items: int = 20_000,
    width: int = 64,
    batch: int = 256,
    seed: int = 0,
    **options: Any,
) -> float:
    """Train a recommender."""
    torch.manual_seed(seed)
    model = Recommender(num_users, num_items, width)
    batches = [(torch.randint(num_users, (batch,)), torch.randint(num_items, (batch,))) for _ in range(4)]
    return train(model, lambda p: torch.optim.Adam(p, lr=1e-3), loss_of, batches, steps, **options)
