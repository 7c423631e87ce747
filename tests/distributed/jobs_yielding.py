"""Loops that give up their turns in long stretches without a synchronization."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.identity import Record, differences, run_alone, run_together
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet

STEPS = 4


def loop(given_up: list[bool] | None = None) -> Record:
    """Accumulate over three backwards and evaluate now and then, giving up the turn in between."""
    record, given_up = Record(), [] if given_up is None else given_up
    job = motet.current_job()
    torch.manual_seed(4)
    net = nn.Sequential(nn.Linear(9, 20), nn.BatchNorm1d(20), nn.Dropout(0.3), nn.Linear(20, 3))
    ddp = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    for step in range(STEPS):
        with ddp.no_sync():
            for _ in range(2):
                ddp(torch.randn(6, 9)).square().mean().backward()
                given_up.append(job.yield_turn())
        loss = ddp(torch.randn(6, 9)).square().mean()
        loss.backward()
        record.look(loss)
        optimizer.step()
        optimizer.zero_grad()
        if step % 2:
            ddp.eval()
            with torch.no_grad():
                for _ in range(3):
                    record.look(net(torch.randn(6, 9)))
                    given_up.append(job.yield_turn())
            ddp.train()
    record.buffers(net)
    return record.ended(ddp, optimizer)


def two_that_yield(**options: Any) -> dict[str, Any]:
    """Run two such loops together; require each to end as alone."""
    expected = run_alone(loop)
    given_up: list[bool] = []
    results, taken = run_together({"one": partial(loop, given_up), "other": loop}, order="one,other", **options)
    for name in ("one", "other"):
        assert results[name].status == "finished", results[name].error
        found = differences(results[name].result, expected, name)
        assert not found, "\n".join(found[:10])
    return {"taken": taken, "given_up": given_up, "turns": results["one"].turns}


def where_it_cannot() -> list[bool]:
    """Ask where a turn cannot end: in autocast that caches casts, in a hook of backward; and outside of any run."""
    answers = [motet.current_job().yield_turn()]

    def ask() -> None:
        ddp = DistributedDataParallel(nn.Linear(3, 3))
        job = motet.current_job()
        with torch.autocast("cpu"):
            answers.append(job.yield_turn())
        x = torch.ones(1, 3, requires_grad=True)
        y = ddp(x)
        y.register_hook(lambda gradient: answers.append(job.yield_turn()))
        y.sum().backward()
        answers.append(job.yield_turn())

    motet.run({"asking": ask})
    return answers


def yields_on_worker_0_alone(width: int) -> None:
    """Do what the documentation forbids."""

    def train(forbidden: bool) -> None:
        ddp = DistributedDataParallel(nn.Linear(width, width))
        for _ in range(60):
            if forbidden and dist.get_rank() == 0:
                motet.current_job().yield_turn()
            ddp(torch.ones(1, width)).sum().backward()

    motet.run({"wrong": partial(train, True), "right": partial(train, False)})
