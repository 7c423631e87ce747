"""What this worker's time went to: waiting for the network, and the network's own time shared out among the jobs.

And how long something is waited for by whoever may be stopped meanwhile (`Waited`).
"""

from __future__ import annotations

import threading
import time

LONGEST_LOOK_SECONDS = 2.0


class Stopwatch:
    """How long this worker has waited with nothing to compute, readable from any thread at any moment."""

    def __init__(self) -> None:
        self._waited: tuple[float, float | None] = (0.0, None)  # in waits that have ended; since when in one more

    def wait_begins(self) -> None:
        """Note that the main thread has nothing to compute from now on."""
        self._waited = (self._waited[0], time.perf_counter())

    def wait_ends(self) -> None:
        """Note that the main thread computes again."""
        seconds, since = self._waited
        if since is not None:
            self._waited = (seconds + time.perf_counter() - since, None)

    @property
    def total_seconds(self) -> float:
        """Seconds of all waits that have ended."""
        return self._waited[0]

    def waited_seconds(self, now: float) -> float:
        """Return the seconds waited up to ``now`` (a `time.perf_counter` value), open wait included."""
        seconds, since = self._waited
        return seconds + (max(0.0, now - since) if since is not None else 0.0)


class Waited:
    """How long something has been waited for, by whoever asks again and again.

    Of the time between two questions at most `LONGEST_LOOK_SECONDS` count: a process that was stopped meanwhile
    (Ctrl-Z, SIGSTOP, a machine that slept) has waited for nobody.
    """

    def __init__(self) -> None:
        self.begin_again()

    def begin_again(self) -> None:
        """Wait for something else from now on."""
        self._seconds, self._asked = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds up to now."""
        now = time.monotonic()
        self._seconds, self._asked = self._seconds + min(now - self._asked, LONGEST_LOOK_SECONDS), now
        return self._seconds


class LinkMeter:
    """The network's busy time, shared out: while k buckets are in flight, each is charged 1/k of the time.

    So the shares of all jobs add up to the time during which anything was in flight, however many lanes were in use,
    and can be compared with the bound (`motet.schedule.bound`). Callable from the process groups' threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = 0.0
        self._num_in_flight = 0
        self._virtual_seconds = 0.0  # what one bucket would be charged that had been in flight all along
        self._busy_seconds = 0.0

    def begin(self, now: float) -> float:
        """Note that a bucket leaves at ``now``; return a mark for `end`."""
        with self._lock:
            self._advance(now)
            self._num_in_flight += 1
            return self._virtual_seconds

    def end(self, mark: float, now: float) -> float:
        """Note that a bucket has arrived at ``now``; return its share of the busy time, in seconds."""
        with self._lock:
            self._advance(now)
            self._num_in_flight -= 1
            return self._virtual_seconds - mark

    def busy_seconds(self, now: float) -> float:
        """Return for how long anything has been in flight up to ``now``."""
        with self._lock:
            self._advance(now)
            return self._busy_seconds

    def _advance(self, now: float) -> None:
        if self._num_in_flight > 0 and now > self._since:
            self._virtual_seconds += (now - self._since) / self._num_in_flight
            self._busy_seconds += now - self._since
        self._since = max(now, self._since)
