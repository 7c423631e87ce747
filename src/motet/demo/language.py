"""A byte-level GPT that learns the source of Python's standard library: compute-heavy, small gradients.

Plain PyTorch under DDP. Alone: ``torchrun --nproc-per-node=2 -m motet.demo.language --num-steps 400``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from motet.demo.sources import python_files

NUM_BYTES = 256
LAST_BYTES = 4


class Block(nn.Module):
    """One transformer layer, normalised before each half: causal attention, then a perceptron."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.norm_perceptron = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, length, width) to the same shape."""
        batch, length, width = x.shape
        projected = self.query_key_value(self.norm_attention(x)).view(batch, length, 3, self.num_heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.output(attended.transpose(1, 2).reshape(batch, length, width))
        changed: Tensor = x + self.perceptron(self.norm_perceptron(x))
        return changed


class ByteGPT(nn.Module):
    """Predict each next byte from those before it, at most ``length`` of them.

    A convolution over the last four bytes gives the first layer a taste of words: without it, small models spend most
    of a short training on finding the byte before.
    """

    def __init__(self, num_layers: int, width: int, num_heads: int, length: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(NUM_BYTES, width)
        self.positions = nn.Embedding(length, width)
        self.last_bytes = nn.Conv1d(width, width, LAST_BYTES)
        self.blocks = nn.Sequential(*(Block(width, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        self.logits = nn.Linear(width, NUM_BYTES)
        nn.init.normal_(self.positions.weight, std=0.1)
        nn.init.zeros_(self.logits.weight)

    def forward(self, text: Tensor) -> Tensor:
        """Map bytes (batch, length) to the logits of the byte that follows each (batch, length, 256)."""
        x = self.bytes(text)
        past = F.pad(x.transpose(1, 2), (LAST_BYTES - 1, 0))
        x = x + self.last_bytes(past).transpose(1, 2) + self.positions.weight[: text.shape[1]]
        logits: Tensor = self.logits(self.norm(self.blocks(x)))
        return logits


def load_text(held_out_every: int = 10) -> tuple[Tensor, Tensor]:
    """Read the library into two tensors of bytes: to learn from, and every tenth file to be measured on."""
    files = python_files()
    held_out = files[held_out_every // 2 :: held_out_every]
    learned = [path for path in files if path not in held_out]
    return _concatenate(learned), _concatenate(held_out)


def _concatenate(files: Sequence[Path]) -> Tensor:
    return torch.frombuffer(bytearray(b"".join(path.read_bytes() for path in files)), dtype=torch.uint8)


def windows(text: Tensor, starts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cut a window at each start: (inputs, the bytes that follow them), both (len(starts), length) int64."""
    cut = text[starts[:, None] + torch.arange(length + 1)].long()
    return cut[:, :-1], cut[:, 1:]


@torch.no_grad()
def bits_per_byte(model: nn.Module, text: Tensor, length: int, num_windows: int) -> float:
    """Measure on windows spread evenly over the text, shared out among the workers; the same number on all."""
    model.eval()
    starts = torch.linspace(0, len(text) - length - 1, num_windows).long()
    total = torch.zeros(2, dtype=torch.float64)
    for some in torch.split(starts[dist.get_rank() :: dist.get_world_size()], 16):
        inputs, targets = windows(text, some, length)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum")
        total += torch.tensor([loss.item(), targets.numel()])
    dist.all_reduce(total)
    model.train()
    return float(total[0] / total[1]) / math.log(2)


def guess_from_frequencies(learned: Tensor, held_out: Tensor) -> float:
    """Return the bits per byte of who knows only how frequent each byte is."""
    frequencies = (torch.bincount(learned.long(), minlength=NUM_BYTES) + 1).double()
    return float(-(frequencies / frequencies.sum()).log2()[held_out.long()].mean())


def train(
    num_steps: int = 400,
    num_layers: int = 3,
    width: int = 128,
    num_heads: int = 4,
    length: int = 128,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    num_windows: int = 256,
    seed: int = 0,
    save_to: str | None = None,
) -> dict[str, str | float]:
    """Train under DDP and return bits per byte on held-out files before and after.

    ``length`` is in bytes and ``batch_size`` in windows per worker. ``save_to`` names a file for the final states of
    model and optimizer, which worker 0 writes.
    """
    dist.init_process_group("gloo")
    torch.manual_seed(seed)
    learned, held_out = load_text()
    model = DistributedDataParallel(ByteGPT(num_layers, width, num_heads, length))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, num_steps, pct_start=0.1, cycle_momentum=False
    )
    draws = torch.Generator().manual_seed(seed * dist.get_world_size() + dist.get_rank())

    def say(text: str) -> None:
        if dist.get_rank() == 0:
            print(text, flush=True)

    baseline = guess_from_frequencies(learned, held_out)
    before = bits_per_byte(model, held_out, length, num_windows)
    say(f"before training: {before:.2f} bits per byte (knowing only how frequent each byte is: {baseline:.2f})")
    for step in range(1, num_steps + 1):
        starts = torch.randint(len(learned) - length, (batch_size,), generator=draws)
        inputs, targets = windows(learned, starts, length)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % max(1, num_steps // 5) == 0:
            say(f"step {step} of {num_steps}: {loss.item() / math.log(2):.2f} bits per byte in this batch")
    after = bits_per_byte(model, held_out, length, num_windows)
    say(f"after training: {after:.2f} bits per byte")

    if save_to is not None and dist.get_rank() == 0:
        torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}, save_to)
    dist.destroy_process_group()
    return {"metric": "bits per byte", "before": before, "after": after, "baseline": baseline}


def main() -> None:
    """Train with settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--num-steps", type=int, default=400)
    parser.add_argument("--num-layers", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--num-heads", type=int, default=4)
    parser.add_argument("--length", type=int, default=128, help="bytes in a window")
    parser.add_argument("--batch-size", type=int, default=8, help="windows per worker")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--num-windows", type=int, default=256, help="held-out windows to measure on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-to", help="file for the final states of model and optimizer")
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
