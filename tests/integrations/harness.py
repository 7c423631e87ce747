"""Train loops that a framework owns alone and together, in the same workers, and say where they differ.

Imported by the workers only. A loop is called with a folder of its own, and returns everything that it logged and
ended with; both must be equal bit for bit.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.identity import differences, seed_everything

import motet
import motet.patching
from motet.events import Event, JobStarted, TurnEnded
from motet.results import Results

FRAMEWORKS = ("lightning", "accelerate", "transformers")


def torchrun_environment() -> dict[str, str]:
    """Return what torchrun tells a worker."""
    rank, size = str(dist.get_rank()), str(dist.get_world_size())
    return {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": "0",
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",  # the group is there already: nobody connects
        "TORCHELASTIC_RUN_ID": "none",
    }


def find(name: str, folder: Path) -> Callable[[], Any]:
    """Return a loop by name: ``module:function``, the module in this folder, with arguments after a ``?``."""
    name, _, query = name.partition("?")
    module, _, function = name.partition(":")
    options = {key: True for key in query.split("&") if key}
    return partial(getattr(import_module(f"tests.integrations.{module}"), function), folder, **options)


@contextlib.contextmanager
def fresh_process() -> Iterator[None]:
    """Let a loop that runs alone find the frameworks as in a process of its own. Says itself what there is to undo.

    Not by Motet's isolation, which is what is being tested.
    """
    environment = dict(os.environ)
    os.environ.update(torchrun_environment())
    destroy = dist.destroy_process_group
    dist.destroy_process_group = lambda group=None: None  # the gang's group stays
    try:
        _reset_accelerate()
        yield
    finally:
        dist.destroy_process_group = destroy
        os.environ.clear()
        os.environ.update(environment)
        _reset_accelerate()
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)


def _reset_accelerate() -> None:
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


class TurnsTaken:
    """An observer that keeps the order in which turns were taken, and how many were expected of each job."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.expected: dict[str, int | None] = {}

    def observe(self, event: Event) -> None:
        if isinstance(event, TurnEnded):
            self.taken.append(event.job)
        elif isinstance(event, JobStarted):
            self.expected[event.job] = event.turns


_alone: dict[str, Any] = {}


def alone(name: str, folder: Path) -> Any:
    """Return what a loop returns alone, without Motet. Kept: it depends on nothing else."""
    if name not in _alone:
        assert not motet.patching.is_in_place()
        place = folder / "alone" / str(len(_alone))
        place.mkdir(parents=True, exist_ok=True)
        with fresh_process():
            seed_everything()
            _alone[name] = find(name, place)()
    return _alone[name]


def together(jobs: dict[str, str], folder: Path, **options: Any) -> tuple[Results, TurnsTaken]:
    """Train loops under Motet, each in a folder of its own; return the results and what was seen."""
    places = {job: folder / "together" / job for job in jobs}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    calls = {job: find(name, places[job]) for job, name in jobs.items()}
    turns = TurnsTaken()
    before = dict(os.environ)
    os.environ.update(torchrun_environment())
    seed_everything()
    try:
        return motet.run(calls, observers=[turns], **options), turns
    finally:
        os.environ.clear()
        os.environ.update(before)


def must_equal_alone(
    names: Sequence[str], *, folder: str, fails: Sequence[int] = (), order: str | None = None
) -> dict[str, Any]:
    """Train loops together, and require of each what it gives alone. Returns turns and notices, for the test.

    ``fails``: the numbers of those that must fail instead. ``order``: one that is given, where alternations count.
    """
    place = Path(folder)
    jobs = {f"job{number}": name for number, name in enumerate(names)}
    failing = {f"job{number}" for number in fails}
    expected = {job: alone(name, place) for job, name in jobs.items() if job not in failing}
    results, seen = together(jobs, place, order=order)
    found: list[str] = []
    for job in jobs:
        if job in failing:
            assert results[job].status == "failed", f"{job} {results[job].status}"
            continue
        assert results[job].status == "finished", f"{jobs[job]} {results[job].status}: {results[job].error}"
        found += differences(results[job].result, expected[job], f"{job} ({jobs[job]})")
    assert not found, "\n".join(found[:20])
    assert not motet.patching.is_in_place()
    return {
        "turns": [results[job].turns for job in jobs],
        "alternations": sum(one != other for one, other in itertools.pairwise(seen.taken)),
        "expected": [seen.expected[job] for job in jobs],
        "notices": list(results.notices),
        "errors": [results[job].error for job in jobs],
    }


def end_of(name: str, neighbour: str, *, folder: str) -> dict[str, Any]:
    """Train a loop beside another one; return how both ended."""
    results, _ = together({"one": name, "other": neighbour}, Path(folder))
    assert not motet.patching.is_in_place()
    return {job: (result.status, result.error, result.result) for job, result in results.jobs.items()}
