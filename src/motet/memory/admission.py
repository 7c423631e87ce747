"""Room for the jobs of a run: what each holds, whether another one may join, and where those rest that are idle."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace

import torch

from motet.config import RunConfig
from motet.coroutines import RunningJob
from motet.events import Event, MemoryMeasured
from motet.intercept.ddp import JobSeams
from motet.memory.footprint import (
    MARGIN,
    SETTLED_TURN,
    DeviceMemory,
    HostMemory,
    MemoryMeter,
    MemoryReport,
    fits,
    is_measured,
    release_cache,
    size_text,
)
from motet.memory.offload import Offload, StreamTransfers, Transfers, movable, state_of
from motet.schedule.offload_model import is_offloaded
from motet.timing.device import DeviceClock
from motet.workers import Workers

NOTHING_TO_OFFLOAD = (
    "--offload idle moves what a job holds from a device to the host's memory and back; these jobs compute on the "
    "CPU, so nothing is moved."
)


class AdmissionControl:
    """Used by the pipeline, between turns. All but `before_turn` and `after_turn` is the same on all workers."""

    def __init__(
        self,
        workers: Workers,
        config: RunConfig,
        transfers: Transfers | None,
        clock: DeviceClock,
        seams: JobSeams,
        observe: Callable[[Event], None],
        notice: Callable[[str | None, str], None],
    ) -> None:
        self._workers = workers
        self._at_once = config.at_once or sys.maxsize
        self._offloads_idle = config.offload == "idle"
        self._offload = Offload(transfers) if transfers is not None else None
        self._clock = clock
        self._seams = seams
        self._observe = observe
        self._notice = notice
        local = int(os.environ.get("LOCAL_WORLD_SIZE", str(workers.num_workers)))
        self._num_local = local
        self._meter = MemoryMeter(HostMemory(local))
        self._notified_of = 0
        self._on_host = True

    def can_admit(self, live: Mapping[str, RunningJob]) -> bool:
        """Whether one more job may join. Collective with ``auto``, once every running job has been measured."""
        if self._at_once != "auto":
            return len(live) < self._at_once
        if not live:
            return True
        if any(job.num_synced < SETTLED_TURN for job in live.values()):
            return False
        memory = self._meter.memory
        mine = MemoryReport(memory.available_bytes(), self._meter.need_bytes(), memory.total_bytes())
        gathered = self._workers.finish_agreement(self._workers.start_agreement(mine.pack()))
        reports = [MemoryReport.unpack(values) for values in gathered]
        if fits(reports):
            return True
        if self._notified_of != len(live):
            self._notified_of = len(live)
            self._notice(
                None,
                f"--at-once auto: {len(live)} of the jobs are running. The largest holds "
                f"{size_text(max(report.need_bytes for report in reports))}, "
                f"{size_text(min(report.available_bytes for report in reports))} are free, and {MARGIN:.0%} of "
                f"{size_text(max(report.total_bytes for report in reports))} stay free: the "
                "next job waits until one has ended.",
            )
        return False

    def might_admit(self, live: Mapping[str, RunningJob]) -> bool:
        """Whether it is worth asking for one more job; costs nothing."""
        return self._at_once == "auto" or len(live) < self._at_once

    def should_recheck(self, job: RunningJob) -> bool:
        """Whether the end of this turn is a moment at which another job might join."""
        return self._at_once == "auto" and job.outcome is None and job.num_synced == SETTLED_TURN

    def admitted(self, job: RunningJob) -> None:
        """Take note of a job that begins."""
        self._meter.admitted(job.name)

    def before_sync_ends(self, job: RunningJob) -> None:
        """Let the job, whose turn it is, find what it holds."""
        if self._offload is not None:
            self._offload.returned(job.name)

    def before_turn(self, job: RunningJob, next_job: Callable[[], str | None]) -> None:
        """Begin to bring back what the next job holds, and to measure."""
        if self._offload is not None:
            self._offload.returned(job.name)
            if (following := next_job()) is not None:
                self._offload.begin_return(following)
        self._meter.turn_begins(job.name, job.turn)

    def after_turn(self, job: RunningJob, next_job: Callable[[], str | None], live: Collection[str]) -> None:
        """Measure what the job holds; let it rest if it is idle now."""
        if self._clock.on_device and self._on_host:
            self._on_host = False
            with contextlib.suppress(RuntimeError):  # an accelerator whose allocator does not count
                memory = DeviceMemory(_num_sharing(self._num_local))
                memory.available_bytes()
                self._meter.move_to(memory)
        if is_measured(job.num_synced) and job.outcome is None:
            self._measure(job)
        if self._offloads_idle and self._offload is None and job.num_synced > 0:
            self._begin_to_offload()
        if self._offload is not None and job.outcome is None and is_offloaded(job.name, next_job(), len(live)):
            self._offload.put_away(job.name, self._state_of(job))

    def _begin_to_offload(self) -> None:
        device = self._clock.device
        if device is not None:
            self._offload = Offload(StreamTransfers(device))
        else:
            self._notice(None, NOTHING_TO_OFFLOAD)

    def _state_of(self, job: RunningJob) -> Iterator[torch.Tensor]:
        models = self._seams.models_of(job.gradients.models)
        return state_of(models, job.optimizers, job.gradients.aliased)

    def _measure(self, job: RunningJob) -> None:
        known = self._meter.of(job.name)
        models = self._seams.models_of(job.gradients.models)
        device = self._clock.device
        moves = movable(self._state_of(job), "cpu" if device is None else device.type)
        found = self._meter.turn_ended(
            job.name, job.num_synced, models, job.optimizers, sum(storage.nbytes() for storage in moves)
        )
        if found != known:
            self._observe(
                MemoryMeasured(
                    time=time.perf_counter(),
                    job=job.name,
                    parameters_bytes=found.parameters_bytes,
                    gradients_bytes=found.gradients_bytes,
                    optimizer_bytes=found.optimizer_bytes,
                    activations_bytes=found.activations_bytes,
                )
            )

    def of(self, job: str, shared_bytes: int = 0) -> dict[str, object] | None:
        """Return what a job was seen to hold, as ``results.json`` has it. ``shared_bytes``: what others hold, too."""
        footprint = self._meter.of(job)
        return None if footprint is None else replace(footprint, shared_bytes=shared_bytes).to_json()

    def ended(self, job: str) -> None:
        """Give back what a job has left on a device."""
        if self._clock.on_device:
            with contextlib.suppress(RuntimeError):
                release_cache()


def _num_sharing(num_local: int) -> int:
    """Return how many workers of this machine share a device."""
    return -(-num_local // max(1, torch.accelerator.device_count()))
