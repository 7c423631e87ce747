"""What is in flight, and how long a turn's buckets were: kept by whichever thread sees a bucket leave or arrive."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from motet.gradients.buckets import Bucket
from motet.timing.clocks import LinkMeter, Stopwatch
from motet.timing.device import DeviceTransfer


@dataclass(slots=True)
class InFlightBucket:
    """One bucket on its way. ``done`` is set when it has arrived, or failed.

    ``wait`` then raises what went wrong, or (on an accelerator) orders its stream behind the arrival; ``copy_back``
    brings the bucket to where plain DDP would have left it. One that will never arrive is dropped instead.
    """

    bucket: Bucket
    done: threading.Event
    wait: Callable[[], object]
    copy_back: Callable[[], None]
    drop: Callable[[], None]


@dataclass(slots=True)
class SyncTiming:
    """When and how much one turn synchronized.

    ``launched`` and ``completed`` are `time.perf_counter` values of this worker; ``link_seconds`` is the turn's share
    of the network's busy time (`motet.timing.clocks.LinkMeter`); ``launches``: the moment and the bytes of each bucket.
    """

    launched: float = 0.0
    completed: float = 0.0
    waited_at_launch: float = 0.0
    hidden_seconds: float = 0.0
    link_seconds: float = 0.0
    num_bytes: int = 0
    num_collectives: int = 0
    launches: list[tuple[float, int]] = field(default_factory=list)
    transfers: list[DeviceTransfer] = field(default_factory=list)  # of buckets on a device, in place of all times above
    error: Exception | None = None  # what a user's hook raised
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def handed_over(self, num_bytes: int) -> None:
        """Count a bucket that DDP has handed over."""
        self.num_bytes += num_bytes
        self.num_collectives += 1
        self.launches.append((time.perf_counter(), num_bytes))

    def leaves(self, moment: float, stopwatch: Stopwatch) -> None:
        """Note that a bucket leaves at ``moment``: the turn's synchronization begins with the first."""
        if not self.launched:
            self.launched, self.waited_at_launch = moment, stopwatch.waited_seconds(moment)

    def failed(self, error: Exception) -> None:
        """Note what a user's hook raised; the first counts."""
        self.error = self.error or error

    def took(
        self, launches: list[tuple[float, int]], completed: float, link_seconds: float, waited_seconds: float
    ) -> None:
        """Note the moments of buckets on a device, now that they are known."""
        self.launches, self.launched, self.completed = launches, min(left for left, _ in launches), completed
        self.link_seconds += link_seconds
        self.hidden_seconds = completed - self.launched - waited_seconds

    def arrived(self, moment: float, link: LinkMeter, mark: float, stopwatch: Stopwatch) -> None:
        """Count a bucket that arrived at ``moment``; those of a turn arrive on several threads, in any order."""
        with self._lock:
            self.link_seconds += link.end(mark, moment)
            if moment >= self.completed:
                self.completed = moment
                waited = stopwatch.waited_seconds(moment) - self.waited_at_launch
                self.hidden_seconds = moment - self.launched - waited


@dataclass(slots=True)
class HostTransfer:
    """A bucket's way over the network, as the host sees it. Runs on whichever thread launches it, or sees it arrive."""

    turn: SyncTiming
    done: threading.Event
    link: LinkMeter
    stopwatch: Stopwatch
    share: float = 0.0
    work: dist.Work | None = None
    error: BaseException | None = None

    def launch(self, collective: Callable[[], dist.Work], arrived: Callable[[], None]) -> None:
        """Start the bucket's collective. What goes wrong comes out of `wait`, where the job's gradients arrive."""
        try:
            self.work = collective()
            future = self.work.get_future()
        except BaseException as error:  # also what a signal's handler raises here: nobody may wait for ever
            self.error = error.with_traceback(None)
            arrived()
            self.done.set()
            return
        self.follow(future, arrived)

    def follow(self, future: torch.futures.Future[Any], arrived: Callable[[], None] | None = None) -> None:
        """Count the time until ``future`` is done."""
        turn, now = self.turn, time.perf_counter()
        turn.leaves(now, self.stopwatch)
        self.share = self.link.begin(now)

        def there(_: object) -> None:
            turn.arrived(time.perf_counter(), self.link, self.share, self.stopwatch)
            if arrived is not None:
                arrived()
            self.done.set()

        future.add_done_callback(there)

    def wait(self) -> None:
        """Raise what went wrong with a bucket that is done."""
        if self.error is not None:
            raise self.error
        assert self.work is not None
        self.work.wait()
