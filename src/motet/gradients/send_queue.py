"""Whose buckets are sent first: those of the job that comes first in the order.

Every job has a lane of its own, and lanes share the link evenly. But the job whose gradients left first is the job
whose turn comes first: what others send meanwhile holds it up, and with it every worker. So a bucket leaves once the
buckets of other jobs that were sent before it have arrived. Jobs that come round at least twice as often do not wait
for those that come seldom, nor these for them: they share the link (ADR 0017).

No worker can wait for ever. Whom a bucket waits for depends only on the order and on what was sent before it, which
is the same on every worker, and all of that can arrive without it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from motet.schedule.order import Order, priority_classes

SWITCH_SECONDS = 0.0005
"""A thread that sees a bucket arrive shall have the interpreter so soon: until then the link is idle. Python: 5 ms."""

Launch = Callable[[Callable[[], None]], None]
"""Launches a bucket; what it is given is to be called when the bucket has arrived."""
WINDOW_BYTES = 256 * 1024
"""So much of other jobs' buckets may still be in flight when one leaves: a link holds more than one small message."""


@contextlib.contextmanager
def short_switch_interval() -> Iterator[None]:
    """Have threads wait for the interpreter `SWITCH_SECONDS` at most inside the block, instead of Python's 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@dataclass(slots=True)
class _Queue:
    """Jobs that wait for each other, and how many bytes of them are in flight."""

    # Reentrant, for a collective may be over before its launch returns. One a queue: where launching blocks until
    # other workers have launched (torch's debug mode), another queue must not wait for it.
    lock: threading.RLock = field(default_factory=threading.RLock)
    waiting: deque[tuple[str, int, Launch]] = field(default_factory=deque)
    in_flight_bytes: int = 0
    by_job: dict[str, int] = field(default_factory=dict)
    launches: bool = False

    def may_leave(self, job: str) -> bool:
        return self.in_flight_bytes - self.by_job.get(job, 0) <= WINDOW_BYTES

    def add(self, job: str, num_bytes: int) -> None:
        self.in_flight_bytes += num_bytes
        self.by_job[job] = self.by_job.get(job, 0) + num_bytes


class SendQueue:
    """Buckets that wait for the link. Used by the main thread, and by those of process groups when a bucket arrives."""

    def __init__(self, order: Order) -> None:
        self._queues: dict[int, _Queue] = {}
        self._closed = False
        self.follow(order)

    def follow(self, order: Order) -> None:
        """Queue what is sent from now on by ``order``. Every worker must call this at the same slot."""
        self._classes = priority_classes(order)

    def send(self, job: str, num_bytes: int, launch: Launch) -> None:
        """Call ``launch``, now or on another thread, as soon as the bucket may leave. It must not raise.

        One job's buckets are launched in the order in which they are sent.
        """
        priority = self._classes.get(job, 0)
        queue = self._queues.get(priority)
        if queue is None:
            queue = self._queues[priority] = _Queue()
        with queue.lock:
            queue.waiting.append((job, num_bytes, launch))
            self._launch(queue)

    def close(self) -> None:
        """Launch nothing any more: the run has failed."""
        self._closed = True
        for queue in self._queues.values():
            with queue.lock:
                queue.waiting.clear()

    def _launch(self, queue: _Queue) -> None:
        """Launch what may leave. Holds the queue's lock, so that no two threads change the order of a lane."""
        if queue.launches:
            return  # further up on this thread's stack, and goes on there
        queue.launches = True
        try:
            while queue.waiting and not self._closed and queue.may_leave(queue.waiting[0][0]):
                job, num_bytes, launch = queue.waiting.popleft()
                queue.add(job, num_bytes)
                launch(partial(self._arrived, queue, job, num_bytes))
        finally:
            queue.launches = False

    def _arrived(self, queue: _Queue, job: str, num_bytes: int) -> None:
        with queue.lock:
            queue.add(job, -num_bytes)
            self._launch(queue)
