"""Loops that fail, end early, or go another way on one worker; and what runs them in workers and tells the outcome."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.identity import Record, TurnsTaken, alone, differences, find, seed_everything
from tests.distributed.jobs_plain import SMALL_BUCKETS, STEPS, batch, net, train
from tests.outside import send_from_outside
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, Dataset

import motet.workers.group
from motet.running import run
from motet.testing import Fault, with_fault
from motet.workers.watch import Watch

OTHERS = {"plain": "jobs_plain:several_buckets", "batchnorm": "jobs_buffers:every_moment"}


class PlannedError(RuntimeError):
    """What these loops raise on purpose."""


def loop(
    place: str = "",
    worker: int | None = None,
    step: int = 3,
    steps: int = STEPS,
    ends_after: int | None = None,
    talks: bool = False,
    skips: bool = False,
    speaks_alone: bool = False,
) -> Record:
    """Train, and at ``place`` in ``step`` raise on ``worker`` (None: on all); or differ there in another way.

    ``ends_after``: the loop ends after so many steps on ``worker``; ``talks``: all reduce the loss in each step;
    ``skips``: ``worker`` does not synchronize in ``step``; ``speaks_alone``: it calls a collective nobody else calls.
    """
    here = worker in (None, dist.get_rank())

    def fault(now: str, number: int) -> None:
        if here and now == place and number == step:
            raise PlannedError(f"planned at {place}, step {number}")

    fault("start", step)
    ddp = DDP(net(depth=3), bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for number in range(1, steps + 1):
        if here and ends_after is not None and number > ends_after:
            break
        x, y = batch()
        fault("forward", number)
        with ddp.no_sync() if skips and here and number == step else nullcontext():
            loss = F.cross_entropy(ddp(x), y)
        hook = ddp.module[2].weight.register_hook(lambda gradient, number=number: fault("backward", number))
        if speaks_alone and here and number == step:
            dist.barrier()
        optimizer.zero_grad()
        loss.backward()
        fault("after backward", number)
        hook.remove()
        if talks:
            dist.all_reduce(loss.detach())
        optimizer.step()
        record.look(loss)
    fault("last line", step)
    return record.ended(ddp, optimizer)


def hook_that_fails(step: int = 3) -> None:
    """Train with a hook whose future fails on all workers alike."""
    ddp = DDP(net())
    calls = 0

    def check(done):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls >= step:
            raise PlannedError("planned in a hook")
        return done.value()[0]

    def hook(state, bucket):  # type: ignore[no-untyped-def]
        return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(check)

    ddp.register_comm_hook(None, hook)
    train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), Record())


def endless(swallow: str = "", cleaned: str = "") -> None:
    """Train until somebody ends it; ``swallow``: which exceptions are caught in the loop."""
    ddp = DDP(net())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01)
    caught: type[BaseException] = {"": ArithmeticError, "some": Exception, "all": BaseException}[swallow]
    try:
        while True:
            try:
                x, y = batch()
                optimizer.zero_grad()
                F.cross_entropy(ddp(x), y).backward()
                optimizer.step()
            except caught:
                pass
    finally:
        if cleaned:
            with open(f"{cleaned}-{dist.get_rank()}", "w") as file:
                file.write("cleaned")


def be_quick() -> None:
    """Let the watch become suspicious and certain sooner than in earnest: the tests' time is worth more."""
    motet.workers.group.Watch = partial(Watch, suspicion_seconds=0.5, certainty_seconds=3.0)  # type: ignore[misc, assignment]


def beside_others(arguments: dict[str, Any], quick: bool = True, **options: Any) -> dict[str, Any]:
    """Run the loop that fails between others; tell how it ended, and where the others differ from themselves alone."""
    expected = {job: alone(name) for job, name in OTHERS.items()}
    seed_everything()
    if quick:
        be_quick()
    turns = TurnsTaken()
    faulty = hook_that_fails if arguments.get("place") == "hook" else partial(loop, **arguments)
    jobs: dict[str, Callable[[], Any]] = {"plain": find(OTHERS["plain"]), "faulty": faulty}
    jobs["batchnorm"] = find(OTHERS["batchnorm"])
    results = run(jobs, observers=[turns], **options)
    found = [f for job in OTHERS for f in differences(results[job].result, expected[job], job)]
    return {
        "status": {job: results[job].status for job in jobs},
        "turns": {job: results[job].turns for job in jobs},
        "error": results["faulty"].error,
        "differences": found,
        "taken": turns.taken,
    }


def with_a_fault(kind: Any, worker: int, step: int, quick: bool = True, **options: Any) -> dict[str, Any]:
    """Run two loops, and let something happen to the process of ``worker`` in one of them."""
    if quick:
        be_quick()
    seed_everything()
    faulty = with_fault(partial(loop, steps=40), Fault(kind, worker, step))
    results = run({"other": partial(loop, steps=40), "faulty": faulty}, **options)
    return {job: results[job].status for job in results.jobs}


def until_stopped(kind: Any, worker: int, swallow: str = "", cleaned: str = "", **options: Any) -> dict[str, Any]:
    """Run a short loop and endless ones, one of which sends its worker a signal."""
    turns = TurnsTaken()
    faulty = with_fault(partial(endless, swallow, cleaned), Fault(kind, worker, 40))
    jobs = {"short": partial(loop, steps=3), "faulty": faulty, "other": endless, "last": partial(loop, steps=3)}
    results = run(jobs, observers=[turns], **options)
    return {
        "status": {job: results[job].status for job in jobs},
        "turns": {job: results[job].turns for job in jobs},
        "taken": turns.taken,
    }


def same_name_other_place(worker: int) -> dict[str, Any]:
    """Run a loop that all workers leave by an exception, but ``worker`` a turn later."""
    return beside_others({"place": "forward", "step": 4 if dist.get_rank() == worker else 3})


def stands_still(worker: int) -> dict[str, Any]:
    """Run two loops in one of which ``worker`` does nothing any more; the others wait three seconds for it."""
    return with_a_fault("hang", worker, 3, timeout_seconds=3.0)


def dies_with_loaders(worker: int) -> None:
    """Run a loop whose worker dies while processes of its own load data, which hold its connections open."""
    run({"faulty": with_fault(find("jobs_collectives:loader_workers"), Fault("kill", worker, 3))})


class Deadly(Dataset[torch.Tensor]):
    """Data of which one piece ends the process that loads it, when ``go`` is set."""

    def __init__(self, go: Any) -> None:
        self.go = go

    def __getitem__(self, index: int) -> torch.Tensor:
        if index == 20:
            self.go.wait()
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.ones(10) * index

    def __len__(self) -> int:
        return 64


def beside_a_loader_that_dies() -> dict[str, Any]:
    """Run two jobs; in a turn of one of them the process dies that loads the other one's data. Tell how both ended."""
    go = torch.multiprocessing.get_context("fork").Event()
    processes: list[Any] = []

    def loads() -> None:
        ddp = DDP(net())
        optimizer = torch.optim.SGD(ddp.parameters(), lr=0.001)
        # What comes next is asked for when what came before is there.
        batches = iter(DataLoader(Deadly(go), 4, num_workers=1, prefetch_factor=1))
        processes.extend(batches._workers)  # type: ignore[attr-defined]
        for x in batches:
            optimizer.zero_grad()
            ddp(x).square().mean().backward()
            optimizer.step()

    def other() -> None:
        ddp = DDP(net())
        for step in range(12):
            if step == 5:
                go.set()
                os.waitid(os.P_PID, processes[0].pid, os.WEXITED | os.WNOWAIT)
            F.cross_entropy(*(lambda x, y: (ddp(x), y))(*batch())).backward()

    results = run({"other": other, "loads": loads}, order="round-robin")
    return {job: (results[job].status, results[job].turns, results[job].error) for job in results.jobs}


def asked_while_blocked(worker: int, kind: int) -> None:
    """Ask ``worker`` to stop while it is inside a collective of the loop's, which the other one never comes to."""

    def training() -> None:
        ddp = DDP(net())
        for _ in range(3):
            x, y = batch()
            F.cross_entropy(ddp(x), y).backward()
        if dist.get_rank() == worker:
            threading.Timer(1.0, send_from_outside, (kind,)).start()
            dist.all_reduce(torch.zeros(1))
        else:
            os.kill(os.getpid(), signal.SIGSTOP)  # for good: it answers nobody

    run({"blocked": training})
