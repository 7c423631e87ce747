"""Ordinary DDP training loops: models that DDP, or a loop, treats specially."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.identity import Record
from tests.distributed.jobs_plain import SMALL_BUCKETS, STEPS, batch, net, train
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.checkpoint import checkpoint


class Images(nn.Sequential):
    """A small convolutional net with BatchNorm."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
        )  # fmt: skip


def images() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, 8, 8) + dist.get_rank(), torch.randint(3, (6,))


def frozen() -> Record:
    """A backbone without gradients."""
    model = net(depth=3)
    for parameter in model[:3].parameters():
        parameter.requires_grad_(False)
    ddp = DDP(model, bucket_cap_mb=SMALL_BUCKETS)
    return train(ddp, torch.optim.Adam(p for p in ddp.parameters() if p.requires_grad), Record())


class Tied(nn.Module):
    """A tiny language model whose output layer is its embedding."""

    def __init__(self, vocabulary: int = 30, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.body = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.body(self.embedding(tokens)))  # type: ignore[no-any-return]


def train_language(ddp: nn.Module, optimizers: list[torch.optim.Optimizer], vocabulary: int = 30) -> Record:
    record = Record()
    for _ in range(STEPS):
        tokens = torch.randint(vocabulary, (5, 9))
        loss = F.cross_entropy(ddp(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        record.look(loss)
    return record.ended(ddp, *optimizers)


def tied() -> Record:
    """One parameter in two places."""
    ddp = DDP(Tied(), bucket_cap_mb=SMALL_BUCKETS)
    return train_language(ddp, [torch.optim.AdamW(ddp.parameters())])


class Sparse(nn.Module):
    """An embedding with sparse gradients below dense layers."""

    def __init__(self, vocabulary: int = 30, width: int = 16) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, sparse=True)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).tanh())  # type: ignore[no-any-return]


def sparse_sgd() -> Record:
    """Sparse gradients with SGD."""
    ddp = DDP(Sparse())
    return train_language(ddp, [torch.optim.SGD(ddp.parameters(), lr=0.1)])


def sparse_adam() -> Record:
    """Sparse gradients with SparseAdam, dense ones with Adam."""
    ddp = DDP(Sparse(), bucket_cap_mb=SMALL_BUCKETS)
    module: Any = ddp.module
    sparse = torch.optim.SparseAdam(list(module.embedding.parameters()), lr=0.1)
    return train_language(ddp, [sparse, torch.optim.Adam(module.head.parameters())])


def sparse_accumulated() -> Record:
    """Sparse gradients of two batches, summed."""
    ddp = DDP(Sparse())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for step in range(STEPS):
        tokens = torch.randint(30, (5, 9))
        loss = F.cross_entropy(ddp(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        record.look(loss, *(p.grad for p in ddp.parameters()))
        if step % 2:
            optimizer.step()
            optimizer.zero_grad()
    return record.ended(ddp, optimizer)


def only_sparse() -> Record:
    """A model of nothing but a sparse embedding: nothing of it can be deferred."""
    ddp = DDP(nn.EmbeddingBag(20, 4, sparse=True))
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for _ in range(STEPS):
        loss = (ddp(torch.randint(20, (6, 3))) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(ddp, optimizer)


class Branches(nn.Module):
    """A trunk and three branches, of which a step uses those that it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(10, 20)
        self.branches = nn.ModuleList(nn.Linear(20, 3) for _ in range(3))

    def forward(self, x: Tensor, used: list[int]) -> Tensor:
        x = self.trunk(x).tanh()
        return torch.stack([self.branches[i](x) for i in used]).sum(0)


def train_branches(ddp: DDP, used: list[list[int]], clear: bool = True) -> Record:
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    record = Record()
    for step, branches in enumerate(used):
        x, y = batch()
        loss = F.cross_entropy(ddp(x, branches), y)
        if clear or step % 3 == 0:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss, *(p.grad for p in ddp.parameters()))
    return record.ended(ddp, optimizer)


def unused_everywhere() -> Record:
    """Parameters that no worker uses in a step keep no gradient, or the one they had."""
    ddp = DDP(Branches(), find_unused_parameters=True, bucket_cap_mb=SMALL_BUCKETS)
    return train_branches(ddp, [[0], [0, 1], [2], [1], [0, 1, 2], [1]])


def unused_kept() -> Record:
    """The same, with gradients kept from earlier steps."""
    ddp = DDP(Branches(), find_unused_parameters=True, bucket_cap_mb=SMALL_BUCKETS)
    return train_branches(ddp, [[0], [0, 1], [2], [1], [0, 1, 2], [1]], clear=False)


def unused_on_some() -> Record:
    """Parameters that some workers use and others do not."""
    mine = dist.get_rank() % 3
    ddp = DDP(Branches(), find_unused_parameters=True, bucket_cap_mb=SMALL_BUCKETS)
    return train_branches(ddp, [[mine], [0, mine], [1], [mine, 2], [0], [mine]])


def unused_on_some_kept() -> Record:
    """The same, with gradients kept from earlier steps."""
    mine = dist.get_rank() % 3
    ddp = DDP(Branches(), find_unused_parameters=True)
    return train_branches(ddp, [[mine], [0, mine], [1], [mine, 2], [0], [mine]], clear=False)


def unused_bucket_view() -> Record:
    """The same, with gradients that are views of the buckets."""
    mine = dist.get_rank() % 3
    ddp = DDP(Branches(), find_unused_parameters=True, gradient_as_bucket_view=True)
    return train_branches(ddp, [[mine], [0, mine], [1], [mine, 2], [0], [mine]], clear=False)


def unused_no_sync() -> Record:
    """Branches used only under no_sync() in this step: their accumulated gradients are in flight all the same."""
    ddp = DDP(Branches(), find_unused_parameters=True)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for step in range(STEPS):
        x, y = batch()
        with ddp.no_sync():
            F.cross_entropy(ddp(x, [step % 3]), y).backward()
        loss = F.cross_entropy(ddp(x, [(step + 1) % 3]), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        record.look(loss)
    return record.ended(ddp, optimizer)


class Adversaries(nn.Module):
    """A generator and a critic in one module, as one DDP model: each backward uses the parameters of one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = net(depth=3, inputs=5, outputs=6), net(depth=3, inputs=6, outputs=1)

    def forward(self, noise: Tensor, real: Tensor | None) -> Tensor:
        if real is None:
            return F.softplus(-self.critic(self.generator(noise))).mean()
        fake = self.generator(noise).detach()
        return F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake)).mean()


def adversaries(set_to_none: bool = True, toggle: bool = True, kind: type[DDP] = DDP, **options: Any) -> Record:
    """Turn about: a backward leaves whole buckets of the other one's parameters without a gradient."""
    ddp = kind(Adversaries(), find_unused_parameters=True, bucket_cap_mb=SMALL_BUCKETS, **options)
    halves = [list(ddp.module.critic.parameters()), list(ddp.module.generator.parameters())]
    optimizers = [torch.optim.Adam(half, lr=2e-3, betas=(0.5, 0.9)) for half in halves]
    record = Record()
    for _ in range(STEPS):
        for number, optimizer in enumerate(optimizers):
            if toggle:  # as Lightning's toggle_optimizer() does
                for parameter in halves[1 - number]:
                    parameter.requires_grad_(False)
            loss = ddp(torch.randn(8, 5), None if number else torch.randn(8, 6) + dist.get_rank())
            optimizer.zero_grad(set_to_none=set_to_none)
            loss.backward()
            record.look(loss, *(p.grad for p in ddp.parameters()))
            optimizer.step()
            for parameter in ddp.parameters():
                parameter.requires_grad_(True)
    return record.ended(ddp, *optimizers)


def adversaries_kept() -> Record:
    """The same, with the other one's gradients kept from the backward before; nothing is switched off."""
    return adversaries(set_to_none=False, toggle=False)


def adversaries_bucket_view() -> Record:
    """The same, with gradients that are views of the buckets."""
    return adversaries(gradient_as_bucket_view=True)


def adversaries_bucket_view_kept() -> Record:
    """The same, with views that are kept."""
    return adversaries(set_to_none=False, toggle=False, gradient_as_bucket_view=True)


def adversaries_own_hook() -> Record:
    """The same, with the buckets handed over by a communication hook."""

    class Hooked(DDP):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.register_comm_hook(None, default_hooks.allreduce_hook)

    return adversaries(kind=Hooked)


def unused_on_all_but_one() -> Record:
    """A whole bucket that one worker alone uses, or none does: its owner changes from step to step."""
    ddp = DDP(Branches(), find_unused_parameters=True, bucket_cap_mb=SMALL_BUCKETS / 10)
    rank = dist.get_rank()
    return train_branches(ddp, [[0, 1] if rank == step % 3 else [0] for step in range(STEPS)], clear=False)


def static_graph_unused_buckets(bucket_view: bool = False) -> Record:
    """A graph that never changes, in which whole buckets are never used."""
    ddp = DDP(Branches(), static_graph=True, bucket_cap_mb=SMALL_BUCKETS / 10, gradient_as_bucket_view=bucket_view)
    return train_branches(ddp, [[0]] * STEPS)


def static_graph_unused_buckets_view() -> Record:
    """The same, with gradients that are views of the buckets."""
    return static_graph_unused_buckets(bucket_view=True)


def static_graph() -> Record:
    """A graph that never changes: DDP learns the order in the first step."""
    ddp = DDP(net(depth=3), static_graph=True, bucket_cap_mb=SMALL_BUCKETS)
    return train(ddp, torch.optim.Adam(ddp.parameters()), Record())


def static_graph_unused() -> Record:
    """The same, with parameters that are never used."""
    ddp = DDP(Branches(), static_graph=True)
    return train_branches(ddp, [[0, 2]] * STEPS)


class Checkpointed(nn.Module):
    """Layers that are computed again during backward, with dropout in them."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first = nn.Linear(10, 24)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(24, 24), nn.Tanh(), nn.Dropout(0.2)) for _ in range(3))
        self.last = nn.Linear(24, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.last(x)  # type: ignore[no-any-return]


def checkpointing() -> Record:
    """Checkpointing without reentrant backward."""
    ddp = DDP(Checkpointed(reentrant=False), bucket_cap_mb=SMALL_BUCKETS)
    return train(ddp, torch.optim.Adam(ddp.parameters()), Record())


def checkpointing_reentrant() -> Record:
    """Checkpointing that calls backward() inside of backward()."""
    ddp = DDP(Checkpointed(reentrant=True), bucket_cap_mb=SMALL_BUCKETS)
    return train(ddp, torch.optim.Adam(ddp.parameters()), Record())


def checkpointing_static_graph() -> Record:
    """The two together, as transformer trainers have it."""
    ddp = DDP(Checkpointed(reentrant=True), static_graph=True, bucket_cap_mb=SMALL_BUCKETS)
    return train(ddp, torch.optim.Adam(ddp.parameters()), Record())


def channels_last() -> Record:
    """Weights that lie in memory in another order."""
    ddp = DDP(Images().to(memory_format=torch.channels_last), bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    record = Record()
    for _ in range(STEPS):
        x, y = images()
        loss = F.cross_entropy(ddp(x.to(memory_format=torch.channels_last)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss, *([*p.grad.stride()] for p in ddp.parameters() if p.grad is not None))
    return record.ended(ddp, optimizer)


def channels_last_bucket_view() -> Record:
    """The same, with gradients that are views of the buckets."""
    ddp = DDP(Images().to(memory_format=torch.channels_last), gradient_as_bucket_view=True)
    return train_images(ddp)


def train_images(ddp: nn.Module) -> Record:
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    record = Record()
    for _ in range(STEPS):
        x, y = images()
        loss = F.cross_entropy(ddp(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(ddp, optimizer)


def two_dtypes() -> Record:
    """Parameters of two types: buckets never mix them."""
    model = net(depth=3)
    model[2].to(torch.bfloat16)
    cast = model[2].forward
    model[2].forward = lambda x: cast(x.bfloat16()).float()  # type: ignore[method-assign]
    ddp = DDP(model, bucket_cap_mb=SMALL_BUCKETS)
    return train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), Record())


def complex_numbers() -> Record:
    """A complex parameter."""

    class Phases(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.phases = nn.Parameter(torch.randn(10, 3, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (x.to(torch.complex64) @ self.phases).abs()

    ddp = DDP(Phases())
    return train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), Record())


def averaged() -> Record:
    """A slow copy of the model that follows it."""
    ddp = DDP(net())
    slow = copy.deepcopy(ddp.module)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for _ in range(STEPS):
        train(ddp, optimizer, record, steps=1)
        with torch.no_grad():
            for mine, theirs in zip(slow.parameters(), ddp.parameters(), strict=True):
                mine.lerp_(theirs, 0.1)
    return record.ended(ddp, optimizer, slow)


def copied() -> Record:
    """A copy of the wrapped model, which DDP allows, trained next to it."""
    one = DDP(net())
    two = copy.deepcopy(one)
    record = Record()
    optimizers = [torch.optim.SGD(ddp.parameters(), lr=lr) for ddp, lr in ((one, 0.1), (two, 0.2))]
    for _ in range(STEPS):
        train(one, optimizers[0], record, steps=1)
        train(two, optimizers[1], record, steps=1)
    return record.ended(one, two, *optimizers)


def one_after_the_other() -> Record:
    """Two models in a row, as in a cross validation; the first is gone when the second is built."""
    record = Record()
    for width in (16, 24):
        ddp = DDP(net(width=width), bucket_cap_mb=SMALL_BUCKETS)
        optimizer = torch.optim.Adam(ddp.parameters())
        train(ddp, optimizer, record, steps=3)
        record.look(*ddp.parameters())
    return record.ended(ddp, optimizer)
