"""The demo's three models in loops that save checkpoints: what kills are tried on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from tests.chaos.loops import ended
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import motet
from motet.checkpoints import DataPosition
from motet.demo.images import DigitsNet, load_images
from motet.demo.language import ByteGPT, load_text, windows
from motet.demo.pairs import TwoTower, batch_loss, load_pairs


def digits(num_epochs: int = 4, every: int = 20) -> str:
    """The convolutional net, by epochs."""
    torch.manual_seed(0)
    learned, _ = load_images()
    data = DataPosition(DataLoader(learned, batch_size=32, sampler=DistributedSampler(learned)))
    model = DistributedDataParallel(DigitsNet(16))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    print("begins after", int(motet.current_job().checkpoint(
        model=model, optimizer=optimizer, data=data, every_turns=every
    )))  # fmt: skip
    for _ in data.epochs(num_epochs):
        for images, labels in data:
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return ended(model, optimizer)


def gpt(num_steps: int = 80, every: int = 20) -> str:
    """The byte-level transformer, by steps."""
    torch.manual_seed(1)
    learned, _ = load_text()
    model = DistributedDataParallel(ByteGPT(2, 64, 4, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, num_steps)
    draws = torch.Generator().manual_seed(dist.get_rank())
    start = motet.current_job().checkpoint(
        model=model, optimizer=optimizer, schedule=schedule, draws=draws, every_turns=every
    )
    print("begins after", int(start))
    for _ in range(start, num_steps):
        inputs, targets = windows(learned, torch.randint(len(learned) - 64, (4,), generator=draws), 64)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        start.save_point()
    return ended(model, optimizer)


def recommender(num_steps: int = 60, every: int = 20) -> str:
    """The two towers, by steps."""
    torch.manual_seed(2)
    pairs = load_pairs(0)
    frequency = torch.bincount(pairs.learned[:, 1], minlength=pairs.num_identifiers) / len(pairs.learned)
    model = DistributedDataParallel(TwoTower(pairs, 16))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    draws = torch.Generator().manual_seed(dist.get_rank())
    start = motet.current_job().checkpoint(model=model, optimizer=optimizer, draws=draws, every_turns=every)
    print("begins after", int(start))
    for _ in range(start, num_steps):
        batch = pairs.learned[torch.randint(len(pairs.learned), (256,), generator=draws)]
        optimizer.zero_grad()
        batch_loss(model, pairs, batch, frequency.log()).backward()
        optimizer.step()
        start.save_point()
    return ended(model, optimizer)
