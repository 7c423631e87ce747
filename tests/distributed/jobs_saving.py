"""Loops that save checkpoints, and what tests let workers do with them. Imported by workers only."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.identity import Record, differences, run_alone, seed_everything
from tests.outside import send_from_outside
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import motet
from motet import handle
from motet.checkpoints import DataPosition, payloads_of, restore, restore_random_generators, snapshot
from motet.results import Results
from motet.running import run
from motet.workers import agreement

NUM_STEPS = 24


class Plan:
    """What happens in a loop at which step: keyed by step, on ``worker`` (None: on all), once a process."""

    def __init__(self, step: int | None = None, act: Callable[[], None] | None = None, worker: int | None = 0) -> None:
        self.step, self.act, self.worker = step, act, worker
        self.steps_seen: list[int] = []

    def at(self, step: int) -> None:
        self.steps_seen.append(step)
        if step == self.step and self.act is not None and self.worker in (None, dist.get_rank()):
            self.act()


def ask_to_stop() -> None:
    """What a cluster does before it takes a machine away."""
    send_from_outside(signal.SIGTERM)


def fail() -> None:
    """Go wrong."""
    raise ValueError("no such layer")


def _model(seed: int) -> DistributedDataParallel:
    torch.manual_seed(seed + dist.get_rank())  # dropout differs between the workers
    layers = [nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 2)]
    return DistributedDataParallel(nn.Sequential(*layers), bucket_cap_mb=0.0001)


def _ended(model: DistributedDataParallel, *others: Any) -> Record:
    record = Record().ended(model.module, *others)
    record.look(torch.rand(2))  # the random generators are where they should be
    return record


def by_steps(plan: Plan, seed: int = 1, every: int = 5, num_steps: int = NUM_STEPS) -> Record:
    """A range of steps, with a learning-rate schedule and a scaler; data from the global generator."""
    model = _model(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    start = motet.current_job().checkpoint(model=model, optimizer=optimizer, schedule=schedule, every_turns=every)
    for step in range(start, num_steps):
        plan.at(step)
        inputs, labels = torch.randn(4, 6), torch.randint(0, 2, (4,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        start.save_point()
    return _ended(model, optimizer)


def _loader(shuffle_by_sampler: bool, num_samples: int) -> DataLoader[Any]:
    numbers = torch.Generator().manual_seed(3)
    samples = TensorDataset(torch.randn(num_samples, 6, generator=numbers), torch.arange(num_samples) % 2)
    sampler = DistributedSampler(samples, shuffle=True) if shuffle_by_sampler else None
    return DataLoader(samples, batch_size=2, sampler=sampler, shuffle=None if shuffle_by_sampler else True)


def by_epochs(plan: Plan, seed: int = 2, every: int = 5, distributed: bool = True) -> Record:
    """Epochs of shuffled batches; the position in the data says where the loop could start again."""
    model, step = _model(seed), 0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = DataPosition(_loader(distributed, 16 * (dist.get_world_size() if distributed else 1)))
    step = motet.current_job().checkpoint(model=model, optimizer=optimizer, data=data, every_turns=every)
    seen = []
    for _ in data.epochs(3):
        for inputs, labels in data:
            plan.at(int(step))
            seen.append(inputs.sum().item())
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            step = step + 1  # type: ignore[assignment]
    record = _ended(model, optimizer)
    record.look(seen[-3:])
    return record


def by_accumulation(plan: Plan, seed: int = 3, every: int = 2) -> Record:
    """Two batches a turn, the first without synchronization: no place to start again lies between them."""
    model = _model(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = DataPosition(_loader(False, 40))
    turns = int(motet.current_job().checkpoint(model=model, optimizer=optimizer, data=data, every_turns=every))
    for _ in data.epochs(2):
        for number, (inputs, labels) in enumerate(data, start=data.batch):
            last = number % 2 == 1
            with contextlib.nullcontext() if last else model.no_sync():
                nn.functional.cross_entropy(model(inputs), labels).backward()
            if last:
                plan.at(turns)
                turns += 1
                optimizer.step()
                optimizer.zero_grad()
    return _ended(model, optimizer)


LOOPS: dict[str, Callable[..., Record]] = {
    "steps": by_steps,
    "epochs": by_epochs,
    "epochs, shuffled globally": partial(by_epochs, distributed=False),
    "accumulation": by_accumulation,
}


def beside(num_steps: int = 60) -> float:
    """A job that saves nothing."""
    layer = DistributedDataParallel(nn.Linear(3, 1))
    for _ in range(num_steps):
        layer.zero_grad()
        layer(torch.ones(2, 3)).sum().backward()
    return 1.0


class StopPlain(BaseException):
    """Ends a plain loop at a save point."""


class PlainKeeper:
    """Stops and resumes a loop under plain DDP, in memory: what Motet is compared with."""

    def __init__(self, stop_at: int | None, kept: dict[str, Any]) -> None:
        self.stop_at, self.kept = stop_at, kept
        self.turns = 0

    def begin(self, objects: Mapping[str, object], *when: object) -> int:
        self.objects = dict(objects)
        if self.kept:
            restore({**objects}, {**self.kept["shared"]["objects"], **self.kept["own"]["objects"]})
            restore_random_generators(self.kept["own"]["random"])
            self.turns = self.kept["turn"]
        return self.turns

    def save_point(self) -> None:
        self.turns += 1
        if self.turns == self.stop_at:
            parts = [snapshot(payload) for payload in reversed(payloads_of(self.objects, 0).values())]
            self.kept.update(shared=parts[0], own=parts[1], turn=self.turns)
            raise StopPlain


def plain(loop: str, stop_at: int | None = None) -> Record:
    """Run a loop alone under plain DDP; with ``stop_at``, stop it after so many turns and begin it again."""
    kept: dict[str, Any] = {}

    def part() -> Record | None:
        job = handle.JobHandle("solo")
        if stop_at is not None:
            job.saved_by(PlainKeeper(None if kept else stop_at, kept))
        handle.set_current(job)
        try:
            return LOOPS[loop](Plan())
        except StopPlain:
            return None
        finally:
            handle.set_current(None)

    if stop_at is not None:
        assert run_alone(part) is None
    result = run_alone(part)
    assert isinstance(result, Record)
    return result


def together(place: str, jobs: Mapping[str, Callable[[], Any]], **options: Any) -> Results:
    """Run jobs in a directory that may hold their run already; the workers agree as often as they can."""
    seed_everything()
    before, agreement.INTERVAL_SECONDS = agreement.INTERVAL_SECONDS, 1e-9
    try:
        return run(jobs, run_dir=place, resume=True, **options)
    finally:
        agreement.INTERVAL_SECONDS = before


def summary_of(results: Results) -> dict[str, Any]:
    """Return what can be sent to the test."""
    jobs = {name: (job.status, job.turns, job.error) for name, job in results.jobs.items()}
    return {"jobs": jobs, "notices": results.notices}


def stopped_and_resumed(place: str, loop: str, step: int, worker: int) -> dict[str, Any]:
    """Stop a run by a signal to one worker, go on with it, and compare with the loop alone."""
    plan = Plan(step, ask_to_stop, worker)
    first = together(place, {"saves": partial(LOOPS[loop], plan), "beside": partial(beside, 10_000)})
    again = Plan()
    seed_everything(77)  # nothing may depend on where the generators were when the run began again
    second = run({"saves": partial(LOOPS[loop], again), "beside": beside}, run_dir=place, resume=True)
    turn = first["saves"].turns
    alone = plain(loop) if dist.get_world_size() < 3 else plain(loop, stop_at=turn)
    return {
        "first": summary_of(first),
        "second": summary_of(second),
        "steps": (plan.steps_seen, again.steps_seen),
        "differences": differences(second["saves"].result, alone, "saves"),
    }


def saved_in_plain_steps(place: str, every: int = 5, **options: Any) -> dict[str, Any]:
    """Run the loop of steps to its end."""
    plan = Plan()
    return summary_of(together(place, {"saves": partial(by_steps, plan, every=every)}, **options)) | {
        "steps": plan.steps_seen
    }


def by_minutes(place: str) -> dict[str, Any]:
    """Save by the clock, as often as it can be."""

    def loop() -> None:
        model = _model(1)
        start = motet.current_job().checkpoint(model=model, every_minutes=1e-6, keep=1000)
        for _ in range(200):
            model(torch.ones(4, 6)).sum().backward()
            start.save_point()

    return summary_of(together(place, {"saves": loop}))


def failing_on(place: str, worker: int | None, step: int, **options: Any) -> dict[str, Any]:
    """Let a saving job fail at a step, beside another one."""
    plan = Plan(step, fail, worker)
    return summary_of(
        together(place, {"fails": partial(by_steps, plan), "saves": partial(by_steps, Plan(), 4)}, **options)
    )


def unsaveable(place: str) -> dict[str, Any]:
    """Register something that cannot be read back."""

    class Odd:
        def state_dict(self) -> dict[str, object]:
            return {"model": {"it": object()}}

        def load_state_dict(self, state: object) -> None: ...

    def loop() -> None:
        motet.current_job().checkpoint(odd=Odd())

    def twice() -> None:
        model = _model(1)
        motet.current_job().checkpoint(model=model)
        motet.current_job().checkpoint(model=model)

    return summary_of(together(place, {"odd": loop, "twice": twice, "saves": partial(by_steps, Plan())}))


def without_a_place() -> dict[str, Any]:
    """Run a loop that asks for checkpoints where there is no run directory."""
    return summary_of(run({"saves": partial(by_steps, Plan())}))


def becoming_other(place: str) -> dict[str, Any]:
    """Have a job's state change into something that cannot be saved, on worker 0 alone."""

    class Changing:
        calls = 0

        def state_dict(self) -> dict[str, object]:
            self.calls += 1
            return {"it": object() if self.calls > 1 else 1}

        def load_state_dict(self, state: object) -> None: ...

    def loop() -> None:
        model = _model(1)
        start = motet.current_job().checkpoint(model=model, changing=Changing(), every_turns=2)
        for _ in range(10):
            model(torch.ones(4, 6)).sum().backward()
            start.save_point()

    return summary_of(together(place, {"changes": loop}))


def nan_at(place: str, step: int, on_nan: str, catches: bool = False) -> dict[str, Any]:
    """Have a loss become NaN on one worker only: the sum of gradients is NaN on all."""
    caught: list[int] = []

    def loop() -> int:
        model = DistributedDataParallel(nn.Linear(3, 1))
        for number in range(1, 9):
            scale = float("nan") if number == step and dist.get_rank() == 0 else 1.0
            try:
                (model(torch.ones(2, 3)).sum() * scale).backward()
            except motet.errors.NonFiniteError:
                if not catches:
                    raise
                caught.append(number)
            model.zero_grad()
        return number

    return summary_of(together(place, {"nan": loop, "beside": beside}, on_nan=on_nan)) | {"caught": caught}


def never_at_a_save_point(place: str, patience_seconds: float) -> dict[str, Any]:
    """Ask to stop a job that registered objects and never says that it could start again."""
    from motet.workers import interruption

    def loop() -> None:
        model = _model(1)
        motet.current_job().checkpoint(model=model)
        for step in range(10**9):
            if step == 20:
                ask_to_stop()
            model(torch.ones(4, 6)).sum().backward()

    before, interruption.PATIENCE_SECONDS = interruption.PATIENCE_SECONDS, patience_seconds
    try:
        return summary_of(together(place, {"deaf": loop, "saves": partial(by_steps, Plan(), num_steps=10**9)}))
    finally:
        interruption.PATIENCE_SECONDS = before


def limited(place: str, seconds: float) -> dict[str, Any]:
    """Run a job that would go on for hours, for so many seconds."""
    return summary_of(
        together(place, {"saves": partial(by_steps, Plan(), num_steps=10**6)}, stop_after_seconds=seconds)
    )


def fails_while_stopping(place: str, alone: bool) -> dict[str, Any]:
    """Ask worker 1 to stop; in the same turn the job fails, on worker 0 ``alone`` or on all."""

    def act() -> None:
        if dist.get_rank() == 1:
            ask_to_stop()
        if dist.get_rank() == 0 or not alone:
            fail()

    return summary_of(together(place, {"saves": partial(by_steps, Plan(7, act, None))}))


def many_waiting(place: str) -> dict[str, Any]:
    """Ask to stop before most jobs have begun."""
    plan = Plan(2, ask_to_stop, 0)
    jobs: dict[str, Callable[[], Any]] = {"first": partial(by_steps, plan, num_steps=10**9)}
    jobs |= {f"job-{number}": partial(by_steps, Plan(), number) for number in range(12)}
    return summary_of(together(place, jobs, order=["first"] * 60 + [name for name in jobs if name != "first"]))


def hard_end(place: str, step: int) -> None:
    """Have worker 1 end without a word at a step; the others notice."""
    plan = Plan(step, lambda: os._exit(9), 1)
    together(place, {"saves": partial(by_steps, plan)})


def left_behind(place: str) -> list[str]:
    """Return what lies in the folder of checkpoints."""
    root = Path(place) / "checkpoints"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
