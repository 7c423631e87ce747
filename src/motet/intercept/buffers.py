"""BatchNorm statistics and other buffers: on every worker what plain DDP has there at every moment.

Before a forward that follows a training forward, DDP broadcasts the model's buffers from worker 0 and waits for it.
Most of these waits are needless: worker 0's buffers are known as soon as its last forward is over. So when a turn
ends, a *copy* of them is sent, and the next forward finds it there. Each worker decides by itself, and all
alike, whether the copy is still what DDP would send: if any buffer was replaced or written to since (its identity or
version counter changed: a second forward, ``load_state_dict``, an update after ``backward()``), DDP's own blocking
broadcast is done instead. If nothing was written since the last synchronization, there is nothing to do at all.

Every copy carries its sequence number and the number of blocking broadcasts so far, so that workers that decided
differently (buffers written on some workers only) are found. Writes through ``.data`` do not count as changes:
``run(..., buffers="blocking")`` is for loops that do this.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.nn.parallel import DistributedDataParallel

from motet.coroutines import RunningJob
from motet.errors import DivergenceError
from motet.gradients.buckets import DeferredDDP
from motet.workers import Workers
from motet.workers.deadlock import WaitsFor

_FROM_WORKER_0 = dist.BroadcastOptions()
_FROM_WORKER_0.rootRank = 0
_FROM_WORKER_0.rootTensor = 0
_FROM_WORKER_0.asyncOp = True
_ALIGNMENT = 8
_HEADER_BYTES = 16

Mark = list[tuple[Tensor, int]]


class Unread(NamedTuple):
    """A header on its way from a device to the host, which does not wait for it; what it should hold."""

    header: Tensor
    arrived: torch.Event
    expected: tuple[int, int]
    turn: int


@dataclass(eq=False)
class BufferState:
    """The buffers of one DDP model: what is on its way, and when they were last alike on all workers."""

    ddp: weakref.ref[DistributedDataParallel]
    clean: Mark | None = None
    staged: Mark | None = None
    staging: Tensor | None = None
    header: Tensor | None = None
    views: list[Tensor] = field(default_factory=list)
    work: dist.Work | None = None
    done: threading.Event = field(default_factory=threading.Event)
    num_staged: int = 0
    num_blocking: int = 0
    unread: deque[Unread] = field(default_factory=deque)


class BufferSync:
    """The buffers of all DDP models of this worker."""

    def __init__(self, workers: Workers, *, blocking: bool = False) -> None:
        self._workers = workers
        self._blocking = blocking or workers.num_workers == 1
        self._group = None if self._blocking else workers.new_broadcast_lane()
        self._states: dict[str, dict[DeferredDDP, BufferState]] = {}

    def attach(self, job: RunningJob, model: DeferredDDP, ddp: DistributedDataParallel) -> None:
        """Take note of a new model."""
        if not self._blocking:
            self._states.setdefault(job.name, {})[model] = BufferState(weakref.ref(ddp))

    def after_backward(self, job: RunningJob) -> None:
        """Send worker 0's buffers on their way, of every model whose gradients have just left. Does not block."""
        states = self._states.get(job.name)
        if not states:
            return
        for model in job.gradients.models_in_flight():
            state = states.get(model)
            ddp = state.ddp() if state is not None else None
            if state is not None and ddp is not None and ddp.will_sync_module_buffers():
                ddp._assign_modules_buffers()
                mark = _mark(ddp)
                if not (_same(mark, state.clean) or _same(mark, state.staged)):
                    self._stage(job, state, mark)

    def _stage(self, job: RunningJob, state: BufferState, mark: Mark) -> None:
        buffers = [buffer for buffer, _ in mark]
        self._settle(job, state)
        if not _fits(state.views, buffers):
            state.staging, state.header, state.views = _lay_out(buffers)
        assert state.staging is not None
        assert state.header is not None
        state.num_staged += 1
        with torch.no_grad():
            if state.header.device.type == "cpu":
                state.header.copy_(torch.tensor([state.num_staged, state.num_blocking], device="cpu"))
            else:  # a copy from the host's memory would wait for the device
                state.header[0].fill_(state.num_staged)
                state.header[1].fill_(state.num_blocking)
            torch._foreach_copy_(state.views, buffers)
        state.staged = mark
        state.done = threading.Event()
        lane = self._group if state.staging.device.type == "cpu" else self._workers.device_lane or self._group
        assert lane is not None
        # Not torch's function, which looks the lane up in the job's world.
        work: dist.Work = lane.broadcast([state.staging], _FROM_WORKER_0)
        work.get_future().add_done_callback(partial(_arrived, state.done))
        state.work = work

    def synchronize(self, job: RunningJob, ddp: DistributedDataParallel, model: DeferredDDP) -> bool:
        """Bring ``ddp``'s buffers to worker 0's if DDP's broadcast can be avoided; return whether that was so."""
        state = self._states.get(job.name, {}).get(model)
        if state is None or hasattr(ddp, "buffer_hook"):
            return False
        ddp._assign_modules_buffers()
        mark = _mark(ddp)
        if _same(mark, state.clean):
            return True
        if not _same(mark, state.staged):
            state.num_blocking += 1
            return False
        self._settle(job, state)
        self._check(job, state)
        if self._workers.worker != 0:
            buffers = [buffer for buffer, _ in mark]
            # As in DDP: an earlier forward may have saved these buffers for a backward that is still to come.
            with torch.no_grad(), _unsafe_preserve_version_counter(tuple(buffers)):
                torch._foreach_copy_(buffers, state.views)
        state.clean, state.staged = mark, None
        return True

    def synchronized(self, job: RunningJob, ddp: DistributedDataParallel, model: DeferredDDP) -> None:
        """Take note that DDP has done its own blocking broadcast."""
        state = self._states.get(job.name, {}).get(model)
        if state is not None:
            state.clean = _mark(ddp)

    def _check(self, job: RunningJob, state: BufferState) -> None:
        assert state.header is not None
        expected = (state.num_staged, state.num_blocking)
        if state.header.device.type == "cpu":
            self._compare(job, state.header, expected, job.turn)
            return
        sent = torch.empty(2, dtype=torch.int64, device="cpu", pin_memory=True)
        sent.copy_(state.header, non_blocking=True)
        arrived = torch.Event(state.header.device)
        arrived.record(torch.accelerator.current_stream(state.header.device))
        state.unread.append(Unread(sent, arrived, expected, job.turn))
        while state.unread and state.unread[0].arrived.query():
            read = state.unread.popleft()
            self._compare(job, read.header, read.expected, read.turn)

    def _compare(self, job: RunningJob, header: Tensor, expected: tuple[int, int], turn: int) -> None:
        staged, blocking = header.tolist()
        if (staged, blocking) != expected:
            raise DivergenceError(
                f"Job '{job.name}', turn {turn}: worker {self._workers.worker} and worker 0 do not agree on when "
                "the model's buffers changed. Buffers were written on some workers only, between two forwards; "
                'write them on all workers, or run with buffers="blocking" (--buffers blocking).'
            )

    def _settle(self, job: RunningJob, state: BufferState) -> None:
        """Wait for a broadcast that is under way (it was sent a turn ago, so it is mostly there)."""
        if state.work is not None:
            work, state.work = state.work, None
            self._workers.wait(WaitsFor("collective", job.name, job.turn), state.done, work.wait)

    def close(self) -> None:
        """Let go of the group that buffers are sent on."""
        self._group = None

    def detach(self, job: RunningJob) -> None:
        """Forget a job that has ended, once nothing of it is in flight any more."""
        for state in self._states.pop(job.name, {}).values():
            self._settle(job, state)
            for read in state.unread:
                read.arrived.synchronize()
                self._compare(job, read.header, read.expected, read.turn)


def _arrived(done: threading.Event, _: object) -> None:
    done.set()


def _mark(ddp: DistributedDataParallel) -> Mark:
    """Return what shows whether any buffer was replaced or written to; holds them, so that no identity is reused."""
    return [(buffer, buffer._version) for buffer in ddp.modules_buffers]


def _same(mark: Mark, other: Mark | None) -> bool:
    return (
        other is not None
        and len(mark) == len(other)
        and all(a is b and v == w for (a, v), (b, w) in zip(mark, other, strict=True))
    )


def _fits(views: list[Tensor], buffers: list[Tensor]) -> bool:
    def form(tensors: list[Tensor]) -> list[object]:
        return [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]

    return bool(views) and form(views) == form(buffers)


def _lay_out(buffers: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return one flat tensor of bytes with room for a header of two int64 and all buffers, and views of its parts."""
    offsets, end = [], _HEADER_BYTES
    for buffer in buffers:
        offsets.append(end)
        size = buffer.numel() * buffer.element_size()
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    staging = torch.zeros(end, dtype=torch.uint8, device=buffers[0].device)
    header = staging[:_HEADER_BYTES].view(torch.int64)
    views = []
    for buffer, offset in zip(buffers, offsets, strict=True):
        size = buffer.numel() * buffer.element_size()
        views.append(staging[offset : offset + size].view(buffer.dtype).view(buffer.shape))
    return staging, header, views
