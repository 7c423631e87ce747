"""Runs whose order changes all the time, to orders that nobody could have foreseen. Imported by the workers only."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from tests.distributed.identity import Record, differences, must_equal_alone, run_alone, seed_everything
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet.running
from motet.events import Event, OrderChanged, TurnEnded
from motet.running import run
from motet.schedule.order import Order
from motet.schedule.replanner import Change, Replanner, SyncSample
from motet.workers import agreement


class Restless(Replanner):
    """A planning for which costs drift with every agreement: each worker tells noise, and all follow it."""

    def first_known(self, live: Collection[str]) -> bool:
        return False  # they are told every time

    def report_costs(self, expected: Mapping[str, int | None]) -> list[float]:
        return [random.SystemRandom().random() for _ in expected]

    def receive_costs(self, message: Sequence[Sequence[float]], num_synced: Mapping[str, int]) -> Change | None:
        return self._any_order(repr(message), num_synced)

    def ended(self, job: str, num_synced: Mapping[str, int]) -> Change | None:
        return self._any_order(job, num_synced)

    def _any_order(self, seed: str, live: Mapping[str, int]) -> Change | None:
        if not live:
            return None
        chance = random.Random(seed)
        turns = [name for name in live for _ in range(chance.randint(1, 3))]
        chance.shuffle(turns)
        self.order = Order(tuple(turns))
        return Change(self.order, "restless")


class Reckoned(Replanner):
    """A planning to which time is given: turns take what is written here, and from the 20th on something else."""

    COSTS: ClassVar = {"wide": (0.01, 0.1), "narrow": (0.01, 0.001), "late": (0.03, 0.06)}
    LATER: ClassVar = {"wide": (0.01, 0.02), "narrow": (0.01, 0.001), "late": (0.03, 0.06)}

    def __init__(self, order: Order | None, names: Sequence[str]) -> None:
        super().__init__(order, names)
        self.num_turns = dict.fromkeys(names, 0)

    def cost(self, job: str) -> tuple[float, float]:
        return (self.COSTS if self.num_turns[job] < 20 else self.LATER)[job]

    def computed(self, job: str, begin: float, seconds: float, busy_seconds: float) -> None:
        self.num_turns[job] += 1
        super().computed(job, begin, self.cost(job)[0] * random.SystemRandom().uniform(1, 1.05), busy_seconds)

    def synced(self, job: str, sync: SyncSample) -> None:
        seconds = self.cost(job)[1] * random.SystemRandom().uniform(1, 1.05)
        super().synced(job, SyncSample(seconds, seconds, sync.num_bytes))


@contextmanager
def planned_by(planning: type[Replanner]) -> Iterator[None]:
    """Let the runs inside use another planning, and agree as often as they can."""
    before = motet.running.Replanner, agreement.INTERVAL_SECONDS, agreement.FIRST_INTERVAL_SLOTS
    motet.running.Replanner = planning  # type: ignore[misc]
    agreement.INTERVAL_SECONDS, agreement.FIRST_INTERVAL_SLOTS = 0.0, 1
    try:
        yield
    finally:
        motet.running.Replanner = before[0]  # type: ignore[misc]
        agreement.INTERVAL_SECONDS, agreement.FIRST_INTERVAL_SLOTS = before[1:]


def must_equal_alone_restless(names: Mapping[str, str], **options: Any) -> dict[str, Any]:
    """As `must_equal_alone`, while the order changes all the time."""
    with planned_by(Restless):
        return must_equal_alone(names, **options)


class Changes:
    """An observer that keeps the turns taken, and after how many of them the order changed, and to what."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.changed: list[tuple[int, tuple[str, ...]]] = []
        self.reasons: list[str] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, TurnEnded):
            self.taken.append(event.job)
        elif isinstance(event, OrderChanged):
            self.changed.append((len(self.taken), event.order))
            self.reasons.append(event.reason)


def loop(seed: int, steps: int, width: int = 8, slow: float = 0.0, slow_worker: int | None = None) -> Record:
    """Train a tiny model. Now and then a worker (any, or the one given) is slow, by chance of its own."""
    chance = random.SystemRandom()
    torch.manual_seed(seed + dist.get_rank())
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Tanh(), nn.Linear(width, 1))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    for _ in range(steps):
        if slow and slow_worker in (None, dist.get_rank()) and chance.random() < 0.3:
            time.sleep(chance.uniform(0, slow))
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
    return Record().ended(model, optimizer)


def jittery_run(steps: int, slow: float, slow_worker: int | None, **options: Any) -> dict[str, Any]:
    """Train three jobs under changing orders; return the turns taken and the changes of the order."""
    jobs = {"a": (1, steps), "b": (2, steps // 2), "c": (3, steps * 2)}
    expected = {name: run_alone(partial(loop, *given)) for name, given in jobs.items()}
    changes = Changes()
    with planned_by(Restless):
        seed_everything()
        slowed = {name: partial(loop, *given, slow=slow, slow_worker=slow_worker) for name, given in jobs.items()}
        results = run(slowed, observers=[changes], **options)
    found = [place for name in jobs for place in differences(results[name].result, expected[name], name)]
    assert not found, found[:10]
    return {"taken": changes.taken, "changed": changes.changed}


def determined_run(steps: int) -> dict[str, Any]:
    """Train jobs of unequal costs whose order is determined from them; return the turns and the changes."""
    jobs = {"wide": (1, steps, 256), "narrow": (2, 10 * steps, 8), "late": (3, steps, 16)}
    expected = {name: run_alone(partial(loop, *given)) for name, given in jobs.items()}
    changes = Changes()
    with planned_by(Reckoned):
        seed_everything()
        results = run({name: partial(loop, *given) for name, given in jobs.items()}, observers=[changes], at_once=2)
    found = [place for name in jobs for place in differences(results[name].result, expected[name], name)]
    assert not found, found[:10]
    return {"taken": changes.taken, "changed": changes.changed, "reasons": changes.reasons}
