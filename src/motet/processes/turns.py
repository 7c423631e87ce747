"""A job's turns, in its own process: when it gives the turn away, and when it takes it again.

The turn changes hands where the job begins to wait (`JobTurns.away`), and at the end of a backward's computing, before
DDP waits for its buckets: a callback queued in the autograd engine ahead of DDP's own (`JobTurns.backward`). What
training computes is torch's own in every way: no communication hook, no process group, no stream is touched; DDP's
reducer only says which backward it is going to synchronize (`JobTurns.prepared`).

A turn is counted where a synchronization ends: with the backward of a DDP model, with a backward in which something was
waited for (FSDP2's gathers), and in a process without DDP with the first collective waited for after a backward. As all
workers run the same program, they count alike; what has to happen in the same turn everywhere (a stop, a checkpoint)
goes by that count (`at_turn_end`). Inside of torch's ``Join``, where workers take different numbers of steps, nothing
is agreed on, and what is counted there is left out (`num_even`).
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from motet.processes.turn_table import Seat, Stretch

QUANTUM_SECONDS = 0.01
"""So long a job goes on with further turns where a turn has nothing to wait for, so that handing over, which costs the
processor's caches, is seldom."""
ASKED_FOR_COSTS = 10
"""DDP times its first so many iterations: of these is learned how long before a backward's end gradients leave."""

_queue_callback = torch.autograd.Variable._execution_engine.queue_callback


class JobTurns:
    """The turns of the job that lives in this process.

    ``at_turn_end(turn)`` is called on the main thread when a synchronized turn has ended: without the turn, but where
    the job goes on within ``quantum_seconds`` of having taken it. What it raises is raised there.
    """

    def __init__(
        self,
        seat: Seat,
        at_turn_end: Callable[[int], None],
        at_backward: Callable[[FrameType | None], None] = lambda frame: None,
        *,
        quantum_seconds: float = 0.0,
    ) -> None:
        self._seat = seat
        self._at_turn_end = at_turn_end
        self._at_backward = at_backward
        self._main = threading.get_ident()
        self._quantum = int(quantum_seconds * 1e9)
        self._taken_at = 0
        self._models: list[weakref.ref[DistributedDataParallel]] = []
        self._prepared: set[int] = set()  # reducers of DDP's whose next backward synchronizes
        self._in_flight: list[DistributedDataParallel] = []
        self._depth = 0
        self._released = 0  # when the turn was given away, inside a backward
        self._backward_begin = 0
        self._num_waits = 0
        self._owes_sync = False
        self._lead: weakref.WeakKeyDictionary[DistributedDataParallel, list[float]] = weakref.WeakKeyDictionary()
        self._begin = 0
        self.num_turns = 0
        self.num_backwards = 0
        self.num_even = 0  # turns that all workers have taken alike
        self._num_joins = 0  # blocks of `Join` that are open
        self.ended = False

    # Waits

    def begin(self) -> None:
        """Take the first turn; blocks until it comes."""
        self._take()

    def end(self) -> None:
        """Give the turn away for good."""
        if not self.ended and not self._seat.waits:
            self._held(self._seat.release())
        self.ended = True

    def leave_to_parent(self) -> None:
        """In a process that the job has forked: the turn is its parent's, whatever is waited for here."""
        self.ended = True

    def join_begins(self) -> None:
        """Note that a block of `Join` begins: inside, workers take different numbers of steps."""
        self._num_joins += 1

    def join_ends(self) -> None:
        """Note that a block of `Join` ends."""
        self._num_joins -= 1

    @property
    def uneven(self) -> bool:
        """Whether workers may take different numbers of turns now."""
        return self._num_joins > 0

    @property
    def can_wait(self) -> bool:
        """Whether a wait that begins here is the job's: on its main thread, which has not given the turn away yet."""
        return threading.get_ident() == self._main and not self._seat.waits and not self.ended

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Give the turn away for the block, which waits; blocks afterwards until it is this job's turn again."""
        if not self.can_wait:
            yield
            return
        self._held(self._seat.release())
        try:
            yield
        finally:
            self._take()

    def wait_collective(self, wait: Callable[[], Any], done: Callable[[], bool]) -> Any:
        """Wait for a collective, without the turn unless it is ``done``; the first after a backward ends a turn.

        What is counted here is the same on all workers: it depends on the program alone, never on what is done already.
        """
        if not self.can_wait:
            return wait()
        self._num_waits += 1
        synchronizes = self._owes_sync and not self._models and self._depth == 0
        if not synchronizes and done():
            return wait()
        end = self._seat.release(synchronizes=synchronizes)
        self._held(end)
        try:
            result = wait()
            if synchronizes:
                arrived = time.perf_counter_ns()
                self._owes_sync = False
                self._count()
                self._synced(end, arrived, end)
                self._at_turn_end(self.num_turns)
        finally:
            self._take()
        return result

    def _take(self) -> None:
        anew = self._seat.waits
        self._seat.acquire()
        self._begin = self._seat.begin
        if anew:
            self._taken_at = self._begin

    def _held(self, end: int) -> None:
        """Report to the worker, as soon as the turn is given away, from when to when this job had it."""
        self._seat.write(Stretch(self._begin, end, 0, self.num_turns, False))

    def _synced(self, end: int, arrived: int, launched: int, num_bytes: int = 0) -> None:
        """Report to the worker a turn whose gradients have arrived; it is counted by now."""
        self._seat.write(Stretch(end, end, arrived, self.num_turns, True, launched, num_bytes, self._backward_begin))

    # DDP

    def built(self, model: DistributedDataParallel) -> None:
        """Take note of a model in DDP."""
        self._models.append(weakref.ref(model))

    def prepared(self, reducer: object) -> None:
        """Take note that DDP has prepared a reducer for the next backward: a forward that is to be synchronized."""
        self._prepared.add(id(reducer))

    @property
    def all_models(self) -> list[DistributedDataParallel]:
        """The models in DDP that this process holds."""
        return [model for reference in self._models if (model := reference()) is not None]

    @property
    def models(self) -> list[DistributedDataParallel]:
        """The models whose gradients the last turn synchronized."""
        return self._in_flight

    def backward(self, call: Callable[..., Any], tensors: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an outermost ``backward()``; the turn is given away when its computing is done, if DDP then waits."""
        if self._depth or threading.get_ident() != self._main or self.ended:
            return call(tensors, *args, **kwargs)
        self._at_backward(sys._getframe())
        self._depth, self._released, before = 1, 0, self._num_waits
        self._in_flight = [model for model in self.all_models if id(model.reducer) in self._prepared]
        self._prepared.clear()
        self._backward_begin = time.perf_counter_ns()
        keeps = self._backward_begin - self._taken_at < self._quantum
        root = _root_of(tensors) if self._in_flight and not keeps else None
        hook = None if root is None else root.register_hook(self._at_root)
        try:
            result = call(tensors, *args, **kwargs)
        except BaseException:  # on this worker alone, perhaps: nothing is counted, and nobody waited for
            self._depth = 0
            self._take()
            raise
        finally:
            if hook is not None:
                hook.remove()
        self._depth = 0
        self.num_backwards += 1
        self._backward_over(self._num_waits > before)
        return result

    def _at_root(self, gradient: torch.Tensor) -> None:
        """The backward has begun to compute: queue what is called when it has done so, before DDP queues its own."""
        _queue_callback(self._computed)

    def _computed(self) -> None:
        if not self._seat.waits:
            self._released = self._seat.release(synchronizes=True)
            self._held(self._released)

    def _backward_over(self, waited: bool) -> None:
        arrived = time.perf_counter_ns()
        if not self._in_flight:
            self._owes_sync = not waited
            if waited:  # within: each wait has given the turn away by itself
                self._count()
                end = self._seat.release(synchronizes=True)
                self._held(end)
                self._synced(end, end, end)
                self._finish_turn()
            return
        self._count()
        end = self._released
        if not end:
            end = self._seat.count()
            self._held(end)
        first, num_bytes = self._launched(end)
        self._synced(end, arrived, first, num_bytes)
        self._finish_turn()

    def _count(self) -> None:
        self.num_turns += 1
        self.num_even += not self.uneven

    def _finish_turn(self) -> None:
        try:
            self._at_turn_end(self.num_turns)
        finally:
            self._take()

    def _launched(self, end: int) -> tuple[int, int]:
        """Return when the first gradients of this turn left, as far as DDP logs it, and the bytes in flight."""
        lead, num_bytes = 0.0, 0
        for model in self._in_flight:
            leads = self._lead.setdefault(model, [])
            if len(leads) < ASKED_FOR_COSTS:
                logged = model._get_ddp_logging_data()
                leads.append(float(logged.get("backward_compute_comm_overlap_time", 0)))
                leads.sort()
            lead = max(lead, leads[len(leads) // 2])
            num_bytes += _bytes_of(model)
        return max(end - int(lead), self._backward_begin), num_bytes


_bytes: weakref.WeakKeyDictionary[DistributedDataParallel, int] = weakref.WeakKeyDictionary()


def _bytes_of(model: DistributedDataParallel) -> int:
    if model not in _bytes:
        _bytes[model] = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return _bytes[model]


def _root_of(tensors: Any) -> torch.Tensor | None:
    """Return a tensor at which the backward begins; None if none of them can have a hook."""
    for tensor in (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors):
        if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
            return tensor
    return None
