"""Run jobs alone under plain DDP and together under Motet, in the same worker, and say where they differ.

Imported by the workers only. A loop records what it sees in a `Record` and returns it; two records must be equal bit
for bit: same bytes, dtypes and shapes, everywhere.
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

import motet.patching
from motet.events import Event, Observer, TurnEnded
from motet.observe import MetricsWriter, Progress, TraceRecorder, build_report, write_trace
from motet.results import Results
from motet.running import run

SEED = 20


class Record:
    """What a loop saw and how it ended: losses of every step, other looks, and the final states."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.end: dict[str, Any] = {}

    def look(self, *values: Any) -> None:
        """Keep copies of tensors or numbers as they are now."""
        self.seen.append([_copy(value) for value in values])

    def buffers(self, model: nn.Module) -> None:
        """Keep copies of a model's buffers as they are now, on this worker."""
        self.look(*model.buffers())

    def ended(self, *things: Any) -> Record:
        """Keep the final states of models (with their gradients) and optimizers; return the record."""
        for number, thing in enumerate(things):
            state = dict(thing.state_dict())
            if isinstance(thing, nn.Module):
                state["gradients"] = [p.grad for p in thing.parameters()]
            self.end[f"{number} {type(thing).__name__}"] = _copy(state)
        return self


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    return value


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Return the places at which two values differ in a single bit, with the size of the difference."""
    if isinstance(one, Record) and isinstance(other, Record):
        return differences(one.seen, other.seen, f"{place}.seen") + differences(one.end, other.end, f"{place}.end")
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return [] if _same_tensor(one, other) else [f"{place}: {_distance(one, other)}"]
    if type(one) is not type(other):
        return [f"{place}: {type(one).__name__} against {type(other).__name__}"]
    if isinstance(one, dict):
        if list(one) != list(other):
            return [f"{place}: keys {list(one)} against {list(other)}"]
        return [found for key in one for found in differences(one[key], other[key], f"{place}[{key!r}]")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{place}: {len(one)} against {len(other)} items"]
        return [found for i, item in enumerate(one) for found in differences(item, other[i], f"{place}[{i}]")]
    if isinstance(one, np.ndarray):
        return [] if one.tobytes() == other.tobytes() and one.shape == other.shape else [f"{place}: arrays differ"]
    return [] if one == other else [f"{place}: {one!r:.80} against {other!r:.80}"]


def _same_tensor(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape or one.layout != other.layout:
        return False
    if one.layout == torch.sparse_coo:
        one, other = one.coalesce(), other.coalesce()
        return torch.equal(one.indices(), other.indices()) and _same_tensor(one.values(), other.values())
    # Bytes: torch.equal calls -0.0 and 0.0 equal, and no NaN equal to itself (gradients of a step that overflowed).
    mine, theirs = (tensor.reshape(-1).contiguous().view(torch.uint8) for tensor in (one, other))
    return torch.equal(mine, theirs)


def _distance(one: Tensor, other: Tensor) -> str:
    if one.dtype != other.dtype or one.shape != other.shape or one.layout != other.layout:
        return f"{one.dtype}{tuple(one.shape)} against {other.dtype}{tuple(other.shape)}"
    off = (one.to_dense().double() - other.to_dense().double()).abs()
    return f"{int((off != 0).sum())} of {off.numel()} differ, by up to {off.max().item():.3g}"


def seed_everything(seed: int = SEED) -> None:
    """Bring all global generators to a known state, another one on every worker."""
    seed = seed * 1000 + dist.get_rank()
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def find(name: str) -> Callable[..., Any]:
    """Return a loop by the name that tables use: ``module:function``, the module in this folder."""
    module, _, function = name.partition(":")
    return getattr(import_module(f"tests.distributed.{module}"), function)  # type: ignore[no-any-return]


class TurnsTaken:
    """An observer that keeps the order in which turns were taken."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, TurnEnded):
            self.taken.append(event.job)


_alone: dict[str, Any] = {}


def alone(name: str, **arguments: Any) -> Any:
    """Return what a loop returns alone under plain DDP. Kept: it depends on nothing else."""
    key = f"{name} {sorted(arguments.items())}"
    if key not in _alone:
        _alone[key] = run_alone(partial(find(name), **arguments))
    return _alone[key]


def run_alone(call: Callable[[], Any]) -> Any:
    """Run a loop alone, with torch as it is by itself; what it leaves changed is put right afterwards."""
    assert not motet.patching.is_in_place()
    seed_everything()
    try:
        return call()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def recorders() -> Iterator[list[Observer]]:
    """Return what ``motet run`` has look on: live rows, logged values, the trace. Trace and report must come of it."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        yield [Progress(io.StringIO(), live=True, width=120), MetricsWriter(run_dir), TraceRecorder(run_dir)]
        assert "traceEvents" in write_trace(run_dir).read_text(encoding="utf-8")
        assert "</html>" in build_report(run_dir).read_text(encoding="utf-8")


def run_together(
    jobs: Mapping[str, Callable[[], Any]], recorded: bool = False, **options: Any
) -> tuple[Results, list[str]]:
    """Run jobs under Motet; return the results and the jobs in the order of their turns."""
    turns = TurnsTaken()
    with recorders() if recorded else contextlib.nullcontext([]) as observers:
        seed_everything()
        results = run(jobs, observers=[turns, *observers], **options)
    return results, turns.taken


def must_equal_alone(
    names: Mapping[str, str], *, references: Mapping[str, str] | None = None, **options: Any
) -> dict[str, Any]:
    """Run loops together, and require each to end as it does alone. Returns turns and notices, for the test.

    ``names``: loops by job. ``references``: what to run alone instead, for a loop that cannot run alone in a gang.
    ``recorded``: with live rows, logged values and the trace, as ``motet run`` has them.
    """
    expected = {job: alone((references or {}).get(job, name)) for job, name in names.items()}
    results, taken = run_together({job: find(name) for job, name in names.items()}, **options)
    found: list[str] = []
    for job in names:
        assert results[job].status == "finished", f"job '{job}' {results[job].status}: {results[job].error}"
        found += differences(results[job].result, expected[job], job)
    assert not found, "\n".join(found[:20])
    return {
        "turns": {job: results[job].turns for job in names},
        "taken": taken,
        "notices": list(results.notices),
    }
