"""Ordinary DDP training loops with BatchNorm: every worker looks at its running statistics at many moments."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.identity import Record
from tests.distributed.jobs_models import Images, images
from tests.distributed.jobs_plain import SMALL_BUCKETS, STEPS
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from motet.torch_versions import torch_version

TORCH = torch_version() or ()
NOT_SYNCHRONIZED = {"forward_sync_buffers" if TORCH >= (2, 13) else "broadcast_buffers": False}
# Before 2.12 plain DDP refuses two forwards of a model with buffers before one backward: they count as changed.
TWO_FORWARDS = {} if TORCH >= (2, 12) else NOT_SYNCHRONIZED


def build(**options: Any) -> tuple[DDP, torch.optim.Optimizer, Record]:
    ddp = DDP(Images(), **options)
    return ddp, torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9), Record()


def step(ddp: nn.Module, optimizer: torch.optim.Optimizer, record: Record, *, look: bool = True) -> None:
    """One step; with ``look`` every moment at which a loop can see the buffers is recorded."""
    x, y = images()
    if look:
        record.buffers(ddp)
    loss = F.cross_entropy(ddp(x), y)
    if look:
        record.buffers(ddp)
    optimizer.zero_grad()
    loss.backward()
    if look:
        record.buffers(ddp)
    optimizer.step()
    record.look(loss)


def every_moment() -> Record:
    """Before and after each forward, after backward(), after the step."""
    ddp, optimizer, record = build(bucket_cap_mb=SMALL_BUCKETS)
    for _ in range(STEPS):
        step(ddp, optimizer, record)
    return record.ended(ddp, optimizer)


def never_looked_at() -> Record:
    """Only the final state: nothing but the loop itself touches the buffers."""
    ddp, optimizer, record = build()
    for _ in range(STEPS):
        step(ddp, optimizer, record, look=False)
    return record.ended(ddp, optimizer)


def local_buffers() -> Record:
    """Buffers that DDP leaves alone: every worker keeps its own."""
    ddp, optimizer, record = build(**NOT_SYNCHRONIZED)
    for _ in range(STEPS):
        step(ddp, optimizer, record)
    return record.ended(ddp, optimizer)


def evaluation_through_ddp() -> Record:
    """Evaluations through the DDP module, with and without gradients, whose forwards synchronize buffers or do not."""
    ddp, optimizer, record = build()
    for number in range(STEPS):
        step(ddp, optimizer, record)
        ddp.eval()
        with torch.set_grad_enabled(number % 3 == 0):
            for _ in range(1 + number % 2):
                record.look(ddp(images()[0]))
                record.buffers(ddp)
        ddp.train()
    ddp.eval()
    with torch.no_grad():
        record.look(ddp(images()[0]))
    record.buffers(ddp)
    return record.ended(ddp, optimizer)


def evaluation_of_the_module() -> Record:
    """Evaluations of the wrapped model on worker 0 alone, which need no collective."""
    ddp, optimizer, record = build()
    for _ in range(STEPS):
        step(ddp, optimizer, record)
        if dist.get_rank() == 0:
            ddp.module.eval()
            with torch.no_grad():
                record.look(ddp.module(images()[0]))
            ddp.module.train()
        record.buffers(ddp)
    return record.ended(ddp, optimizer)


def accumulation() -> Record:
    """Forwards under no_sync(), which update the statistics but do not synchronize them."""
    ddp, optimizer, record = build()
    for _ in range(STEPS):
        for _ in range(2):
            with ddp.no_sync():
                x, y = images()
                F.cross_entropy(ddp(x), y).backward()
                record.buffers(ddp)
        step(ddp, optimizer, record)
    return record.ended(ddp, optimizer)


def training_without_gradients() -> Record:
    """Forwards in training mode under no_grad(), as loops do that recompute the statistics."""
    ddp, optimizer, record = build()
    for _ in range(STEPS):
        step(ddp, optimizer, record)
        with torch.no_grad():
            for _ in range(2):
                ddp(images()[0])
                record.buffers(ddp)
    return record.ended(ddp, optimizer)


def changed_after_backward() -> Record:
    """Buffers that change between backward() and the next forward."""
    ddp, optimizer, record = build()
    start = copy.deepcopy(ddp.state_dict())
    batchnorm = next(m for m in ddp.modules() if isinstance(m, nn.BatchNorm2d))
    for number in range(STEPS):
        step(ddp, optimizer, record)
        if number == 1:
            ddp.load_state_dict(start)
        elif number == 2:
            ddp.module(images()[0])  # a forward of the wrapped model: updates, and synchronizes nothing
        elif number == 3:
            batchnorm.reset_running_stats()
        elif number == 4:
            batchnorm.running_var = torch.full((8,), 2.0 + dist.get_rank())  # another tensor
        record.buffers(ddp)
    return record.ended(ddp, optimizer)


def changed_unseen() -> Record:
    """Changes that cannot be seen, or not on all workers: right only with blocking broadcasts."""
    ddp, optimizer, record = build()
    batchnorm = next(m for m in ddp.modules() if isinstance(m, nn.BatchNorm2d))
    assert batchnorm.running_mean is not None
    for number in range(STEPS):
        step(ddp, optimizer, record)
        if number == 1:
            batchnorm.running_mean.data.add_(1 + dist.get_rank())  # a write that no version counter sees
        elif number == 3 and dist.get_rank() == 0:
            batchnorm.running_mean.zero_()  # on one worker alone
        elif number == 4 and dist.get_rank() > 0:
            batchnorm.running_mean.zero_()
        record.buffers(ddp)
    return record.ended(ddp, optimizer)


def steps_that_do_not_train() -> Record:
    """Forwards whose backward never comes, and whose loss is left out on all workers."""
    ddp, optimizer, record = build()
    for number in range(STEPS):
        step(ddp, optimizer, record)
        if number % 2:
            with ddp.no_sync():
                ddp(images()[0])
            record.buffers(ddp)
            ddp(images()[0])
            record.buffers(ddp)
    return record.ended(ddp, optimizer)


class Counter(nn.Module):
    """A model with an integer buffer, a floating one, and one that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(4, dtype=torch.float64))
        self.register_buffer("last", torch.zeros(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1 + dist.get_rank()
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).double().detach()  # bound anew each time
        self.last.copy_(x[0])
        return self.linear(x - self.mean.float())  # type: ignore[no-any-return]


def buffers_of_all_kinds() -> Record:
    """Buffers of several types, one of them bound anew in each forward."""
    ddp = DDP(Counter())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for _ in range(STEPS):
        record.buffers(ddp)
        loss = ddp(torch.randn(5, 4) + dist.get_rank()).square().mean()
        record.buffers(ddp)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(ddp, optimizer)


def gan() -> Record:
    """Two DDP models with BatchNorm; two forwards before one backward; one model's backward through the other."""
    generator = DDP(nn.Sequential(nn.Linear(5, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 6)), **TWO_FORWARDS)
    critic = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.LeakyReLU(0.2), nn.Linear(24, 1))
    critic = DDP(critic, **TWO_FORWARDS)
    optimizers = [torch.optim.Adam(m.parameters(), lr=2e-3, betas=(0.5, 0.9)) for m in (generator, critic)]
    record = Record()
    for _ in range(STEPS):
        real = torch.randn(8, 6) + dist.get_rank()
        fake = generator(torch.randn(8, 5))
        optimizers[1].zero_grad()
        loss = F.softplus(-critic(real)).mean() + F.softplus(critic(fake.detach())).mean()
        loss.backward()
        optimizers[1].step()
        record.look(loss)
        record.buffers(generator)
        record.buffers(critic)
        optimizers[0].zero_grad()
        loss = F.softplus(-critic(fake)).mean()
        loss.backward()
        optimizers[0].step()
        record.look(loss)
        record.buffers(generator)
        record.buffers(critic)
    return record.ended(generator, critic, *optimizers)


def two_models_one_backward() -> Record:
    """Two DDP models whose losses share one call of backward()."""
    one, two = DDP(Images(), bucket_cap_mb=SMALL_BUCKETS), DDP(Images())
    optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()], lr=0.1)
    record = Record()
    for _ in range(STEPS):
        x, y = images()
        losses = [F.cross_entropy(one(x), y), F.cross_entropy(two(x), y)]
        optimizer.zero_grad()
        torch.autograd.backward(losses)
        optimizer.step()
        record.look(*losses)
        record.buffers(one)
    return record.ended(one, two, optimizer)


def two_models_two_backwards() -> Record:
    """Two DDP models, both forwards before both backwards; one of them under no_sync() every second step."""
    one, two = DDP(Images()), DDP(Images())
    optimizer = torch.optim.SGD([*one.parameters(), *two.parameters()], lr=0.1)
    record = Record()
    for number in range(STEPS):
        x, y = images()
        optimizer.zero_grad()
        if number % 2:
            with one.no_sync():
                first = F.cross_entropy(one(x), y)
        else:
            first = F.cross_entropy(one(x), y)
        second = F.cross_entropy(two(x), y)
        first.backward()
        second.backward()
        optimizer.step()
        record.look(first, second)
        record.buffers(one)
        record.buffers(two)
    return record.ended(one, two, optimizer)


def teacher() -> Record:
    """A frozen teacher in training mode, whose DDP-wrapped student learns from it."""
    teacher = Images().requires_grad_(False)
    ddp, optimizer, record = build()
    for _ in range(STEPS):
        x, _ = images()
        loss = F.mse_loss(ddp(x), teacher(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
        record.buffers(ddp)
        record.buffers(teacher)
    return record.ended(ddp, optimizer)
