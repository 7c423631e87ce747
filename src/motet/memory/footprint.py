"""What each job holds in memory, measured; and whether one more job would fit.

Parameters, gradients and the optimizer's state are counted exactly, as the sizes of their storages, wherever they
are. The peak of activations comes from the accelerator's allocator, in a few turns of each job (the first and the
third, then ever fewer); on a CPU nobody counts it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn

FIRST_TURN, SETTLED_TURN = 1, 3
"""In its third turn a job has what it holds: buckets are rebuilt, the optimizer has its state."""
MARGIN = 0.1
"""This part of the memory stays free: allocators need room, and batches differ in size."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one job holds on this worker, in bytes.

    ``gradients``: with DDP's buckets of them. ``activations``: what a turn takes beyond everything that was there
    when it began, at its peak; None on a CPU. ``offload``: what of all this ``--offload idle`` moves, on a device.
    ``process``: what a process of the job's own, and those that it has started, take of main memory (PSS), with all of
    the above that is there; None where jobs live together.
    ``shared``: frozen weights among the parameters that other jobs hold with it, and that are there once for all.
    """

    parameters_bytes: int = 0
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    activations_bytes: int | None = None
    device: str = "cpu"
    offload_bytes: int = 0
    process_bytes: int | None = None
    shared_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """Everything that is known."""
        return self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes + (self.activations_bytes or 0)

    def with_peak_of(self, other: Footprint) -> Footprint:
        """Return the larger of each."""
        return Footprint(
            max(self.parameters_bytes, other.parameters_bytes),
            max(self.gradients_bytes, other.gradients_bytes),
            max(self.optimizer_bytes, other.optimizer_bytes),
            _larger(self.activations_bytes, other.activations_bytes),
            other.device,
            max(self.offload_bytes, other.offload_bytes),
            _larger(self.process_bytes, other.process_bytes),
            max(self.shared_bytes, other.shared_bytes),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``results.json`` says."""
        return asdict(self)


def _larger(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else max(one or 0, other or 0)


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors in nested containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from tensors_in(item)


def _bytes_of(tensors: Iterable[Tensor], seen: set[int]) -> int:
    """Return the size of all storages that were not seen before."""
    total = 0
    for tensor in tensors:
        if tensor.layout != torch.strided:
            total += sum(part.numel() * part.element_size() for part in _parts(tensor))
            continue
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            total += storage.nbytes()
    return total


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    return ()


def measure(models: Sequence[nn.Module], optimizers: Iterable[torch.optim.Optimizer]) -> Footprint:
    """Return what DDP models and optimizers hold. Each storage is counted once, where it is met first."""
    seen: set[int] = set()
    parameters = [p for model in models for p in model.parameters()]
    held = _bytes_of([*parameters, *(buffer for model in models for buffer in model.buffers())], seen)
    gradients = _bytes_of([p.grad for p in parameters if p.grad is not None], seen)
    for model in models:
        if not getattr(model, "gradient_as_bucket_view", True):  # the buckets are memory of their own
            gradients += sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    state = _bytes_of((t for optimizer in optimizers for t in tensors_in(optimizer.state)), seen)
    device = str(parameters[0].device) if parameters else "cpu"
    return Footprint(held, gradients, state, None, device)


class Memory(Protocol):
    """The memory that jobs are in."""

    def allocated_bytes(self) -> int:
        """Return what this worker has allocated now."""

    def begin_peak(self) -> None:
        """Forget the highest amount so far."""

    def peak_bytes(self) -> int | None:
        """Return the highest amount since then, or None where nobody counts."""

    def available_bytes(self) -> int:
        """Return how much more this worker could allocate, if the others on its machine do alike."""

    def total_bytes(self) -> int:
        """Return this worker's share of all there is."""


class HostMemory:
    """Main memory, shared with the workers of the same machine."""

    def __init__(self, num_sharing: int = 1, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._num_sharing = max(1, num_sharing)
        self._proc, self._cgroup = proc, cgroup

    def allocated_bytes(self) -> int:
        """Return the size of this process in memory, without pages of files: what jobs share is no job's alone."""
        try:
            resident, of_files = map(int, (self._proc / "self" / "statm").read_text().split()[1:3])
        except (OSError, ValueError):
            return 0
        return (resident - of_files) * os.sysconf("SC_PAGE_SIZE")

    def begin_peak(self) -> None:
        """Nothing: main memory keeps no peak that could be begun anew."""

    def peak_bytes(self) -> int | None:
        """Return None."""
        return None

    def available_bytes(self) -> int:
        """Return this worker's share of what Linux would give, within the container's limit."""
        limits = [self._from_meminfo("MemAvailable")]
        limit, used = self._number("memory.max"), self._number("memory.current")
        if limit is not None and used is not None:
            limits.append(max(0, limit - used))
        return min(limits) // self._num_sharing

    def total_bytes(self) -> int:
        """Return this worker's share of main memory, or of the container's."""
        limits = [self._from_meminfo("MemTotal")]
        if (limit := self._number("memory.max")) is not None:
            limits.append(limit)
        return min(limits) // self._num_sharing

    def _from_meminfo(self, key: str) -> int:
        try:
            for line in (self._proc / "meminfo").read_text().splitlines():
                if line.startswith(f"{key}:"):
                    return int(line.split()[1]) * 1024
        except (OSError, ValueError):
            pass
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    def _number(self, name: str) -> int | None:
        try:
            return int((self._cgroup / name).read_text())
        except (OSError, ValueError):  # no such container, or "max"
            return None


class DeviceMemory:
    """An accelerator's memory, as torch's allocator counts it. Reading it waits for no stream."""

    def __init__(self, num_sharing: int = 1) -> None:
        self._num_sharing = max(1, num_sharing)

    def allocated_bytes(self) -> int:
        """Return what tensors hold."""
        return torch.accelerator.memory_allocated()

    def begin_peak(self) -> None:
        """Begin the peak anew, for everybody who asks torch for it."""
        torch.accelerator.reset_peak_memory_stats()

    def peak_bytes(self) -> int | None:
        """Return the most that tensors held since."""
        return torch.accelerator.max_memory_allocated()

    def available_bytes(self) -> int:
        """Return what is free on the device, shared out, and what the allocator has that no tensor uses."""
        free, _ = torch.accelerator.get_memory_info()
        kept = torch.accelerator.memory_reserved() - torch.accelerator.memory_allocated()
        return free // self._num_sharing + max(0, kept)

    def total_bytes(self) -> int:
        """Return this worker's share of the device."""
        return torch.accelerator.get_memory_info()[1] // self._num_sharing


def release_cache() -> None:
    """Give what a job has left to the other jobs, and what torch's allocator keeps of it to the device."""
    if torch.accelerator.is_available() and torch.accelerator.memory_reserved() > 0:
        import gc

        gc.collect()  # a loop's frames and graphs often hold each other in cycles
        torch.accelerator.empty_cache()


@dataclass(slots=True)
class _JobMemory:
    at_begin: int = 0  # allocated when the job was admitted
    at_turn: int = -1  # allocated when the turn began that is measured now; -1: none is
    footprint: Footprint | None = None
    growth: int = 0


@dataclass
class MemoryMeter:
    """What all jobs of this worker hold. ``memory`` is what they are in."""

    memory: Memory
    _jobs: dict[str, _JobMemory] = field(default_factory=dict)

    def move_to(self, memory: Memory) -> None:
        """Measure another memory from now on: that of a device."""
        self.memory = memory

    def admitted(self, job: str) -> None:
        """Take note of a job that begins."""
        self._jobs[job] = _JobMemory(at_begin=self.memory.allocated_bytes())

    def turn_begins(self, job: str, turn: int) -> None:
        """Begin to measure, if this turn is one that is measured."""
        if is_measured(turn):
            with contextlib.suppress(RuntimeError):  # an accelerator whose allocator does not count
                self.memory.begin_peak()
                self._jobs[job].at_turn = self.memory.allocated_bytes()

    def turn_ended(
        self,
        job: str,
        turn: int,
        models: Sequence[nn.Module],
        optimizers: Iterable[torch.optim.Optimizer],
        offload_bytes: int = 0,
    ) -> Footprint:
        """Measure; return what the job holds as far as was ever seen. ``offload_bytes``: see `Footprint`."""
        known = self._jobs[job]
        found = replace(measure(models, optimizers), offload_bytes=offload_bytes)
        with contextlib.suppress(RuntimeError):
            peak = self.memory.peak_bytes()
            if peak is not None and known.at_turn >= 0 and turn >= SETTLED_TURN:
                found = replace(found, activations_bytes=max(0, peak - known.at_turn))
            known.growth = max(known.growth, self.memory.allocated_bytes() - known.at_begin)
        known.footprint = found if known.footprint is None else known.footprint.with_peak_of(found)
        return known.footprint

    def of(self, job: str) -> Footprint | None:
        """Return what a job was seen to hold, or None if it was never measured."""
        known = self._jobs.get(job)
        return None if known is None else known.footprint

    def need_bytes(self) -> int:
        """Return what a further job may need: what the largest so far was seen to take."""
        footprints = [(job.footprint or Footprint()).total_bytes for job in self._jobs.values()]
        grown = [
            0 if (job.footprint or Footprint()).activations_bytes is not None else job.growth
            for job in self._jobs.values()
        ]
        return max([*footprints, *grown], default=0)


def is_measured(turn: int) -> bool:
    """Whether this turn of a job is measured: the 1st, 3rd, 6th, 12th, 24th, ..."""
    if turn in (FIRST_TURN, SETTLED_TURN):
        return True
    return turn > 0 and turn % SETTLED_TURN == 0 and (turn // SETTLED_TURN) & (turn // SETTLED_TURN - 1) == 0


class MemoryReport(NamedTuple):
    """What one worker reports of its memory: what is free, what the largest job holds, and all there is."""

    available_bytes: float
    need_bytes: float
    total_bytes: float

    def pack(self) -> list[float]:
        """Return the report as numbers."""
        return list(self)

    @classmethod
    def unpack(cls, values: Sequence[float]) -> Self:
        """Return what was packed into these numbers."""
        return cls(*values)


def fits(reports: Sequence[MemoryReport]) -> bool:
    """Return whether one more job fits on every worker, with the margin left free."""
    need = max(report.need_bytes for report in reports)
    return all(report.available_bytes - MARGIN * report.total_bytes >= need for report in reports)


def size_text(num_bytes: float) -> str:
    """Return a size as people say it."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit in ("B", "kB") or num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
