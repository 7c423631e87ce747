"""Train the members of an ensemble together, then let them vote:

    torchrun --nproc-per-node=2 examples/ensemble.py --members 4

The members are trained by ordinary loops under DistributedDataParallel; what each returns comes back in the results.
"""

import argparse
import os
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import motet
from motet.demo.images import DigitsNet, load_images


def train(seed: int, num_epochs: int) -> Tensor:
    """Train one member; return what it says of the held-out digits, as probabilities."""
    torch.manual_seed(seed)
    model = DistributedDataParallel(DigitsNet(width=8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    learned, held_out = load_images()
    sampler = DistributedSampler(learned, seed=seed)
    for epoch in range(num_epochs):
        sampler.set_epoch(epoch)
        for images, labels in DataLoader(learned, batch_size=32, sampler=sampler):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        return model.module(held_out.tensors[0]).softmax(1)


def main() -> None:
    """Train, and print what each member knows and what all of them know together."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    members = {f"seed{seed}": partial(train, seed, args.epochs) for seed in range(args.members)}
    results = motet.run(members)

    labels = load_images()[1].tensors[1]
    votes = {name: results[name].result for name in members}
    votes["all together"] = torch.stack(list(votes.values())).mean(0)
    if os.environ.get("RANK", "0") == "0":
        for name, probabilities in votes.items():
            print(f"{name}: accuracy {(probabilities.argmax(1) == labels).double().mean():.4f}")


if __name__ == "__main__":
    main()
