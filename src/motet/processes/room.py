"""Room in memory for one more job: what each takes, measured in its process and around it, and who may join.

A job's process counts what its models and optimizers hold, and what it takes of main memory with all that it has
started (`Holdings`). Once all jobs of a worker have settled, it reports what is free to worker 0 (`Room`), which admits
the next job where that fits on every worker (``--at-once auto``). A job that takes no turns (it has no DDP, or starts
up for long) has settled once its process has stopped growing.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from motet.memory.footprint import (
    MARGIN,
    SETTLED_TURN,
    DeviceMemory,
    Footprint,
    HostMemory,
    MemoryReport,
    fits,
    measure,
    size_text,
)
from motet.processes.family import memory_bytes
from motet.processes.job_messages import HoldingsReport
from motet.processes.messages import RoomReport
from motet.timing.clocks import Waited

LOOK_SECONDS = 30.0
"""A job that takes no turns has settled when it has not grown from one look at its process to the next."""
TAKES_NO_TURNS = (
    "--at-once auto: a job that takes no turns (it has no DDP, or starts up for long) counts with what its process "
    "takes of main memory once that has stopped growing. What it takes later, or holds on a device, is not counted."
)


class Holdings:
    """What the job of this process holds. Knows each optimizer from its first step on."""

    def __init__(self) -> None:
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        register_optimizer_step_post_hook(lambda optimizer, args, kwargs: self._optimizers.add(optimizer))

    def report(self, turn: int, models: Sequence[nn.Module]) -> HoldingsReport:
        """Return what models and optimizers hold after this turn of the process."""
        found = replace(measure(models, self._optimizers), process_bytes=memory_bytes(os.getpid()))
        device: tuple[int, int] | None = None
        if not found.device.startswith("cpu"):
            with contextlib.suppress(RuntimeError):  # an accelerator whose allocator does not count
                memory = DeviceMemory()
                peak = memory.peak_bytes() or 0
                found = replace(found, activations_bytes=max(0, peak - found.total_bytes))
                device = memory.available_bytes(), memory.total_bytes()
        return HoldingsReport(turn, found.to_json(), device)


@dataclass
class _TurnsAwaited:
    """A job that has taken no turn: since the last look at its process, and what that took then."""

    waited: Waited = field(default_factory=Waited)
    process_bytes: int = 0


class Room:
    """One worker's part. ``num_sharing``: so many workers share this machine's memory.

    ``by_memory``: jobs join by what there is; otherwise nothing waits for those that take no turns.
    """

    def __init__(self, num_sharing: int, *, by_memory: bool = True) -> None:
        self._by_memory = by_memory
        self._awaited: dict[str, _TurnsAwaited] = {}
        self._memory = HostMemory(num_sharing)
        self._held: dict[str, Footprint] = {}
        self._settled: set[str] = set()
        self._device: Sequence[int] | None = None
        self._reported = -1
        self.num_changes = 0
        """How often a job has been started or concluded, as worker 0 counts: the same on all workers."""

    def receive(self, job: str, report: HoldingsReport) -> Footprint:
        """Take note of what a job holds; return the most that it was seen to hold."""
        found = Footprint(**report.holdings)
        known = self._held.get(job)
        self._held[job] = found if known is None else known.with_peak_of(found)
        self._device = report.device or self._device
        self._awaited.pop(job, None)
        if report.turn >= SETTLED_TURN:
            self._settled.add(job)
        return self._held[job]

    def of(self, job: str, shared_bytes: int = 0) -> dict[str, Any] | None:
        """Return what a job was seen to hold, as ``results.json`` has it. ``shared_bytes``: what others hold, too."""
        return None if job not in self._held else replace(self._held[job], shared_bytes=shared_bytes).to_json()

    def started(self, job: str) -> None:
        """Take note that a job's processes start."""
        self.num_changes += 1
        self._settled.discard(job)
        self._awaited[job] = _TurnsAwaited()

    def concluded(self) -> None:
        """Take note that a job has ended."""
        self.num_changes += 1

    def settle_without_turns(self, live: Mapping[str, int]) -> bool:
        """Count jobs that take no turns as settled, if it is time; return whether there are any. ``live``: pids."""
        found = False
        for job, awaited in self._awaited.items():
            if not self._by_memory or job not in live or job in self._settled or awaited.waited.seconds < LOOK_SECONDS:
                continue
            before, awaited.process_bytes = awaited.process_bytes, memory_bytes(live[job])
            awaited.waited.begin_again()
            if awaited.process_bytes <= (1 + MARGIN) * before:
                self._settled.add(job)
                found = True
        return found

    def report(self, live: Mapping[str, int]) -> RoomReport | None:
        """Return what is free on this worker: once after each change, when all jobs that live have settled."""
        if self._reported == self.num_changes or not live or not self._settled.issuperset(live):
            return None
        self._reported = self.num_changes
        taken = [each.process_bytes or 0 for each in self._held.values()]
        need = max(taken + [each.process_bytes for each in self._awaited.values()])
        host = MemoryReport(self._memory.available_bytes(), need, self._memory.total_bytes())
        device = None
        if self._device is not None:
            device = MemoryReport(self._device[0], max(h.total_bytes for h in self._held.values()), self._device[1])
        return RoomReport(self.num_changes, host.pack(), None if device is None else device.pack())


def has_room(reports: Iterable[RoomReport]) -> bool:
    """Return whether one more job fits on every worker, in main memory and on its device."""
    rooms = list(reports)
    on_devices = [MemoryReport.unpack(room.device) for room in rooms if room.device is not None]
    return fits([MemoryReport.unpack(room.host) for room in rooms]) and (not on_devices or fits(on_devices))


def full_text(num_running: int, reports: Iterable[RoomReport]) -> str:
    """Say why the next job waits."""
    memories = [
        MemoryReport.unpack(each) for report in reports for each in (report.host, report.device) if each is not None
    ]
    scarce = min(memories, key=lambda memory: memory.available_bytes - MARGIN * memory.total_bytes - memory.need_bytes)
    return (
        f"--at-once auto: {num_running} of the jobs are running. The largest takes {size_text(scarce.need_bytes)}, "
        f"{size_text(scarce.available_bytes)} are free, and {MARGIN:.0%} of {size_text(scarce.total_bytes)} stay free: "
        "the next job waits until one has ended."
    )


def num_sharing(num_workers: int) -> int:
    """Return how many workers share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(num_workers)))
