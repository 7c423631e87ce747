"""A convolutional net with BatchNorm that reads handwritten digits: many short steps, small gradients.

Plain PyTorch under DDP. Alone: ``torchrun --nproc-per-node=2 -m motet.demo.images --num-epochs 15``.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


class DigitsNet(nn.Sequential):
    """Three convolutions with BatchNorm, then dropout and a linear layer: (batch, 1, 8, 8) to (batch, 10) logits."""

    def __init__(self, width: int) -> None:
        super().__init__(
            *self._convolution(1, width),
            *self._convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *self._convolution(2 * width, 2 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(8 * width, 10),
        )

    @staticmethod
    def _convolution(num_in: int, num_out: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(num_in, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()


def load_images(held_out_every: int = 5) -> tuple[TensorDataset, TensorDataset]:
    """Load scikit-learn's 1797 digits as (images, labels): to learn from, and every fifth to be measured on."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target, dtype=torch.int64)
    held_out = torch.arange(len(labels)) % held_out_every == 0
    return TensorDataset(images[~held_out], labels[~held_out]), TensorDataset(images[held_out], labels[held_out])


@torch.no_grad()
def accuracy(model: nn.Module, held_out: TensorDataset) -> float:
    """Return the share of held-out digits that are read right; every worker reads them all."""
    images, labels = held_out.tensors
    model.eval()
    right = (model(images).argmax(1) == labels).double().mean()
    model.train()
    return float(right)


def guess_most_frequent(learned: Tensor, held_out: Tensor) -> float:
    """Return the accuracy of who always says the digit that is most frequent in training."""
    return float((held_out == learned.mode().values).double().mean())


def train(
    num_epochs: int = 15,
    width: int = 32,
    batch_size: int = 32,
    learning_rate: float = 0.05,
    seed: int = 0,
    save_to: str | None = None,
) -> dict[str, str | float]:
    """Train under DDP and return the accuracy on held-out digits before and after.

    ``batch_size`` is per worker. ``save_to`` names a file for the final states of model and optimizer, which worker 0
    writes.
    """
    dist.init_process_group("gloo")
    torch.manual_seed(seed)
    learned, held_out = load_images()
    sampler: DistributedSampler[tuple[Tensor, ...]] = DistributedSampler(learned, seed=seed)
    loader = DataLoader(learned, batch_size=batch_size, sampler=sampler)
    model = DistributedDataParallel(DigitsNet(width))
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs)

    def say(text: str) -> None:
        if dist.get_rank() == 0:
            print(text, flush=True)

    baseline = guess_most_frequent(learned.tensors[1], held_out.tensors[1])
    before = accuracy(model, held_out)
    say(f"before training: accuracy {before:.3f} (always saying the most frequent digit: {baseline:.3f})")
    for epoch in range(1, num_epochs + 1):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        if epoch % max(1, num_epochs // 5) == 0:
            say(f"epoch {epoch} of {num_epochs}: accuracy {accuracy(model, held_out):.3f}")
    after = accuracy(model, held_out)
    say(f"after training: accuracy {after:.3f}")

    if save_to is not None and dist.get_rank() == 0:
        torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict()}, save_to)
    dist.destroy_process_group()
    return {"metric": "accuracy", "before": before, "after": after, "baseline": baseline}


def main() -> None:
    """Train with settings from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--num-epochs", type=int, default=15)
    parser.add_argument("--width", type=int, default=32, help="channels of the first convolution")
    parser.add_argument("--batch-size", type=int, default=32, help="images per worker")
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-to", help="file for the final states of model and optimizer")
    train(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
