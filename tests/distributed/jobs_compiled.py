"""Ordinary DDP training loops with torch.compile."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tests.distributed import identity
from tests.distributed.identity import Record
from tests.distributed.jobs_plain import STEPS, batch, net
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

BACKEND = os.environ.get("MOTET_TEST_BACKEND", "aot_eager")


class Block(nn.Module):
    """Something that a compiler fuses: its results would differ if other code was made of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(10, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = F.gelu(x) * torch.sigmoid(x) + x.mean(1, keepdim=True)
        return self.last(F.layer_norm(x, x.shape[1:]))


def _train(model: Any, parameters: Any, backend: str, sizes: list[int]) -> Record:
    optimizer = torch.optim.Adam(parameters)
    record = Record()
    for size in sizes:
        x, y = batch(size)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(model, optimizer)


def compiled_ddp(backend: str = "aot_eager", width: int = 32) -> Record:
    """The DDP module compiled, as torch's documentation has it."""
    ddp = DDP(Block(width))
    return _train(torch.compile(ddp, backend=backend), ddp.parameters(), backend, [12] * STEPS)


def compiled_inside(backend: str = "aot_eager", width: int = 32) -> Record:
    """The model compiled before DDP wraps it."""
    ddp = DDP(torch.compile(Block(width), backend=backend))  # type: ignore[arg-type]
    return _train(ddp, ddp.parameters(), backend, [12] * STEPS)


def compiled_method(backend: str = "aot_eager", width: int = 32) -> Record:
    """The model compiled in place, with batches of several sizes, so that it is compiled anew."""
    model = Block(width)
    model.compile(backend=backend)
    ddp = DDP(model)
    return _train(ddp, ddp.parameters(), backend, [12, 12, 7, 12, 9, 5])


@torch.compile(backend=BACKEND)
def shared_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """A function that was compiled when its module was imported, for all jobs of the process."""
    return F.cross_entropy(logits.tanh() * 3, targets) + logits.square().mean() * 0.01


def compiled_function(width: int = 32) -> Record:
    """A loop with a compiled function in it."""
    ddp = DDP(net(width=width))
    optimizer = torch.optim.Adam(ddp.parameters())
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        loss = shared_loss(ddp(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(ddp, optimizer)


def compiled_step(backend: str = "aot_eager") -> Record:
    """A compiled function with backward() in the middle of it: Dynamo must leave the switch of turns alone."""
    ddp = DDP(Block(24))
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss = F.cross_entropy(ddp(x), y)
        loss.backward()
        return loss.detach() * 2

    compiled = torch.compile(step, backend=backend)
    record = Record()
    for _ in range(STEPS):
        optimizer.zero_grad()
        record.look(compiled(*batch()))
        optimizer.step()
    return record.ended(ddp, optimizer)


def must_equal_alone(loops: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, int]:
    """Run each loop alone in a Dynamo that has compiled nothing, as in a process of its own, then all together.

    Returns how many turns each took.
    """
    expected = {}
    for job, (name, arguments) in loops.items():
        torch._dynamo.reset()
        expected[job] = identity.run_alone(partial(identity.find(name), **arguments))
    torch._dynamo.reset()
    jobs = {job: partial(identity.find(name), **arguments) for job, (name, arguments) in loops.items()}
    results, _ = identity.run_together(jobs)
    found: list[str] = []
    for job in loops:
        assert results[job].status == "finished", results[job].error
        found += identity.differences(results[job].result, expected[job], job)
    assert not found, "\n".join(found[:20])
    torch._dynamo.reset()
    return {job: results[job].turns for job in loops}
