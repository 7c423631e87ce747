"""Ordinary DDP training loops, with no trace of Motet in them: one kind of step in each."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.identity import Record
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

STEPS = 6
SMALL_BUCKETS = 0.002  # MiB: several buckets even for tiny models


def net(width: int = 40, depth: int = 2, inputs: int = 10, outputs: int = 3) -> nn.Sequential:
    """A perceptron, the same on every worker because DDP broadcasts worker 0's."""
    layers: list[nn.Module] = [nn.Linear(inputs, width), nn.Tanh()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def batch(size: int = 12, inputs: int = 10, outputs: int = 3) -> tuple[Tensor, Tensor]:
    """A batch of this worker's own, from the global generator."""
    return torch.randn(size, inputs), torch.randint(outputs, (size,))


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, record: Record, steps: int = STEPS, **shape: int
) -> Record:
    """The plainest loop there is."""
    for _ in range(steps):
        x, y = batch(**shape)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(model, optimizer)


def companion() -> Record:
    """What runs beside every other loop: it uses all generators, dropout and a BatchNorm, and is longer than most."""
    model = DDP(nn.Sequential(nn.Linear(7, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Dropout(0.3), nn.Linear(33, 2)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    record = Record()
    for _ in range(STEPS + 3):
        x = torch.randn(9, 7) * random.random() + torch.from_numpy(np.random.randn(9, 7)).float()
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(model, optimizer)


def plain() -> Record:
    """One bucket."""
    model = DDP(net())
    return train(model, torch.optim.AdamW(model.parameters(), lr=0.01), Record())


def several_buckets() -> Record:
    """Buckets that leave while backward() goes on."""
    model = DDP(net(width=64, depth=4), bucket_cap_mb=SMALL_BUCKETS)
    return train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), Record())


def longer() -> Record:
    """A job that goes on when the others have ended."""
    model = DDP(net(width=16))
    return train(model, torch.optim.Adam(model.parameters()), Record(), steps=3 * STEPS)


def shorter() -> Record:
    """A job of a single step."""
    model = DDP(net(width=24))
    return train(model, torch.optim.Adam(model.parameters()), Record(), steps=1)


def accumulation() -> Record:
    """Gradients of three batches in one step; the first two stay on their worker."""
    model = DDP(net(), bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    record = Record()
    for _ in range(STEPS):
        for _ in range(2):
            x, y = batch()
            with model.no_sync():
                (F.cross_entropy(model(x), y) / 3).backward()
        x, y = batch()
        loss = F.cross_entropy(model(x), y) / 3
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        record.look(loss)
    return record.ended(model, optimizer)


def accumulation_synchronized() -> Record:
    """Gradients of two batches in one step, synchronized each time, as loops do that know no no_sync()."""
    model = DDP(net(), bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    record = Record()
    for _ in range(STEPS):
        optimizer.zero_grad()
        for _ in range(2):
            x, y = batch()
            loss = F.cross_entropy(model(x), y) / 2
            loss.backward()
            record.look(loss, *(p.grad for p in model.parameters()))
        optimizer.step()
    return record.ended(model, optimizer)


def accumulation_rest() -> Record:
    """An epoch that is no multiple of the accumulation: the last gradients are dropped."""
    model = DDP(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    record = Record()
    for _ in range(2):
        optimizer.zero_grad()
        for number in range(5):
            x, y = batch()
            if number % 2:
                loss = F.cross_entropy(model(x), y)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=False)
            else:
                with model.no_sync():
                    loss = F.cross_entropy(model(x), y)
                    loss.backward()
            record.look(loss)
    return record.ended(model, optimizer)


def dropout() -> Record:
    """Masks from the global generator."""
    model = DDP(nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Dropout(0.5), nn.Linear(50, 3), nn.Dropout1d(0.1)))
    return train(model, torch.optim.Adam(model.parameters()), Record())


def clipping() -> Record:
    """Clipping needs the synchronized gradients, right after backward()."""
    model = DDP(net(), bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        record.look(loss, norm, *(p.grad for p in model.parameters()))
    return record.ended(model, optimizer)


def schedule() -> Record:
    """A learning rate that warms up and decays, and one that looks at the loss."""
    model = DDP(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    warmup = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=STEPS + 1)
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
        record.look(loss, warmup.get_last_lr())
    return record.ended(model, optimizer, warmup)


def autocast() -> Record:
    """bf16 autocast around the forward only, as torch recommends."""
    model = DDP(net(width=64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(model, optimizer)


def autocast_backward_inside(cache: bool = True) -> Record:
    """backward() and even the optimizer inside of autocast, as some loops have it."""
    model = DDP(net(width=64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    record = Record()
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=cache):
        for _ in range(STEPS):
            x, y = batch()
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record.look(loss, torch.mm(x, x.T))
    return record.ended(model, optimizer)


def autocast_no_cache() -> Record:
    """The same with autocast's cache switched off, where a turn can end inside of the block."""
    return autocast_backward_inside(cache=False)


def scaler() -> Record:
    """A GradScaler, which looks at the gradients between backward() and step()."""
    model = DDP(net())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x).float(), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        record.look(loss, scaler.get_scale())
    return record.ended(model, optimizer)


def generators() -> Record:
    """Data from all global generators, reseeded in the middle, as many scripts do."""
    model = DDP(net())
    optimizer = torch.optim.Adam(model.parameters())
    record = Record()
    for step in range(STEPS):
        if step == STEPS // 2:
            torch.manual_seed(7)
            np.random.seed(7 + dist.get_rank())
            random.seed(7)
        order = np.random.permutation(12)
        x = torch.from_numpy(np.random.normal(size=(12, 10))[order]).float() + torch.randn(12, 10)
        y = torch.tensor([random.randrange(3) for _ in range(12)])
        random.shuffle(rows := list(range(12)))
        loss = F.cross_entropy(model(x[rows]), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss, random.gauss(0, 1), np.random.randn(), torch.rand(2))
    return record.ended(model, optimizer)


def float64() -> Record:
    """Doubles, and a default dtype that is left changed."""
    torch.set_default_dtype(torch.float64)
    model = DDP(net())
    return train(model, torch.optim.Adam(model.parameters()), Record())


def evaluation() -> Record:
    """An evaluation through the DDP module after every second step, with all global modes touched."""
    model: Any = DDP(nn.Sequential(nn.Linear(10, 20), nn.Dropout(0.2), nn.ReLU(), nn.Linear(20, 3)))
    optimizer = torch.optim.Adam(model.parameters())
    record = Record()
    for step in range(STEPS):
        train(model, optimizer, record, steps=1)
        if step % 2:
            model.eval()
            with torch.inference_mode() if step % 4 == 1 else torch.no_grad():
                record.look(model(batch()[0]))
            model.train()
    return record.ended(model, optimizer)
