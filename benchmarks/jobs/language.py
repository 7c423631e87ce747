"""A small GPT: compute-heavy, its gradients come evenly during backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jobs.loop import train


class Block(nn.Module):
    """Attention and a feed-forward layer, each with its norm and a residual."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention, self.norm_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.forward_layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, width) -> the same."""
        batch, length, width = x.shape
        heads = self.qkv(self.norm_attention(x)).view(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.forward_layers(self.norm_forward(x))


class Transformer(nn.Module):
    """Predicts the next byte."""

    def __init__(self, width: int, num_layers: int, num_heads: int, length: int, vocabulary: int = 256) -> None:
        super().__init__()
        self.bytes = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        """(batch, length) -> logits (batch, length, vocabulary)."""
        return self.head(self.norm(self.blocks(self.bytes(text) + self.places)))


def loss_of(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the mean cross-entropy of the next byte."""
    (text,) = batch
    logits = model(text[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())


def transformer(
    steps: int,
    width: int = 256,
    num_layers: int = 4,
    num_heads: int = 4,
    length: int = 64,
    batch: int = 4,
    seed: int = 0,
    **options: Any,
) -> float:
    """Train a transformer."""
    torch.manual_seed(seed)
    model = Transformer(width, num_layers, num_heads, length)
    batches = [(torch.randint(256, (batch, length + 1)),) for _ in range(4)]
    return train(model, lambda p: torch.optim.AdamW(p, lr=1e-4), loss_of, batches, steps, **options)
