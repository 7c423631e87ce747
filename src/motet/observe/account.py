"""Where a worker's time went, summed as the records come in: constant memory, about a microsecond a record.

Of a run's time on one worker, each moment is one of: computing, waiting for gradients, neither. Each moment is also
one of: some job's gradients are in flight, none do. Syncs of several jobs may be in flight at once; ``network_seconds``
is the length of their union, so it never exceeds the run's time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from motet.events import Event, JobEnded, JobStarted, RunEnded, RunStarted, SyncEnded, TurnEnded
from motet.schedule.bound import Work, bound_seconds

NUM_INTERVALS = 128
FIRST_INTERVAL_SECONDS = 0.05
NUM_RECENT = 64


@dataclass(slots=True)
class JobSums:
    """Sums over one job's turns on one worker. ``begin`` and ``end`` are seconds since the run began.

    ``link_seconds`` is its share of the time during which anything was in flight. ``overlap_seconds`` is the part of
    its syncs that its own backward passes covered, ``alone_overlap_seconds`` what they would have covered had no
    gradients queued before these: plain DDP hides that too.
    """

    turns: int = 0
    compute_seconds: float = 0.0
    sync_seconds: float = 0.0
    hidden_seconds: float = 0.0
    overlap_seconds: float = 0.0
    alone_overlap_seconds: float = 0.0
    waiting_seconds: float = 0.0
    num_syncs: int = 0
    num_bytes: int = 0
    begin: float | None = None
    end: float = 0.0
    link_seconds: float = 0.0
    startup_seconds: float = 0.0

    def count_turn(self, begin: float, end: float, compute_seconds: float) -> None:
        """Count a turn from ``begin`` to ``end``, seconds since the run began."""
        self.turns += 1
        self.compute_seconds += compute_seconds
        self.begin = begin if self.begin is None else self.begin
        self.end = end

    def count_sync(
        self,
        launched: float,
        completed: float,
        *,
        turn_end: float,
        ready: float,
        hidden_seconds: float,
        waiting_seconds: float,
        num_bytes: int,
        end: float,
        link_seconds: float = 0.0,
    ) -> None:
        """Count a turn's sync, which ``end`` seconds after the run's begin was waited for no longer.

        Of one clock: ``turn_end``, when its backward had ended; ``ready``, when it would have been ``launched`` if
        nothing had queued before it.
        """
        self.sync_seconds += max(0.0, completed - launched)
        self.hidden_seconds += hidden_seconds
        self.link_seconds += link_seconds
        self.overlap_seconds += max(0.0, min(completed, turn_end) - launched)
        self.alone_overlap_seconds += max(0.0, min(completed - launched, turn_end - ready))
        self.waiting_seconds += waiting_seconds
        self.num_syncs += 1
        self.num_bytes += num_bytes
        self.end = end

    def add(self, other: JobSums, offset: float = 0.0) -> None:
        """Add what ``other`` counted in a later attempt, or on another worker; its times lie ``offset`` later."""
        for name in (
            "turns",
            "compute_seconds",
            "sync_seconds",
            "hidden_seconds",
            "link_seconds",
            "startup_seconds",
            "overlap_seconds",
            "alone_overlap_seconds",
            "waiting_seconds",
            "num_syncs",
            "num_bytes",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        if other.begin is not None:
            begin = other.begin + offset
            self.begin = begin if self.begin is None else min(self.begin, begin)
            self.end = max(self.end, other.end + offset)


@dataclass(slots=True)
class Intervals:
    """Busy seconds over time, in at most `NUM_INTERVALS` intervals; they double in length when a run outgrows them."""

    length_seconds: float = FIRST_INTERVAL_SECONDS
    compute: list[float] = field(default_factory=lambda: [0.0] * NUM_INTERVALS)
    waiting: list[float] = field(default_factory=lambda: [0.0] * NUM_INTERVALS)
    network: list[float] = field(default_factory=lambda: [0.0] * NUM_INTERVALS)

    def add(self, row: list[float], begin: float, end: float) -> None:
        """Count the time from ``begin`` to ``end`` (seconds since the run began) in ``row``, one of the lists here."""
        length = self.length_seconds
        first, last = int(begin / length), int(end / length)
        if first == last < NUM_INTERVALS and begin >= 0.0:
            row[first] += end - begin
            return
        begin = max(0.0, begin)
        if end <= begin:
            return
        while end >= self.length_seconds * NUM_INTERVALS:
            self._double()
        length = self.length_seconds
        first, last = int(begin / length), int(end / length)
        if first == last:
            row[first] += end - begin
            return
        row[first] += (first + 1) * length - begin
        for index in range(first + 1, last):
            row[index] += length
        row[last] += end - last * length

    def _double(self) -> None:
        self.length_seconds *= 2
        for row in (self.compute, self.waiting, self.network):
            row[:] = [row[i] + row[i + 1] for i in range(0, NUM_INTERVALS, 2)] + [0.0] * (NUM_INTERVALS // 2)


class Covered:
    """The union of spans that come in roughly by their ends. Remembers the last `NUM_RECENT` stretches only."""

    def __init__(self) -> None:
        self._stretches: list[tuple[float, float]] = []
        self._forgotten = float("-inf")  # everything up to here counts as covered

    def add(self, begin: float, end: float) -> list[tuple[float, float]]:
        """Return the parts of the span from ``begin`` to ``end`` that no earlier span covered."""
        begin = max(begin, self._forgotten)
        if end <= begin:
            return []
        stretches = self._stretches
        if stretches and stretches[-1][1] < begin:  # by far the most common case
            stretches.append((begin, end))
            self._forget()
            return [(begin, end)]
        new: list[tuple[float, float]] = []
        later: list[tuple[float, float]] = []
        merged_begin, merged_end = begin, end
        while stretches and stretches[-1][1] >= begin:
            stretch = stretches.pop()
            if stretch[0] > end:
                later.append(stretch)
                continue
            if stretch[1] < end:
                new.append((stretch[1], end))
            merged_begin, merged_end = min(merged_begin, stretch[0]), max(merged_end, stretch[1])
            end = stretch[0]
        if end > begin:
            new.append((begin, end))
        stretches.append((merged_begin, merged_end))
        stretches.extend(reversed(later))
        self._forget()
        return new

    def _forget(self) -> None:
        if len(self._stretches) > NUM_RECENT:
            self._forgotten = self._stretches.pop(0)[1]


class Account:
    """The sums of one worker's records. `observe` them in the order in which they were made."""

    def __init__(self) -> None:
        self.started: float | None = None  # perf_counter of the first record
        self.seconds = 0.0  # from the first record to the last one
        self.jobs: dict[str, JobSums] = {}
        self.compute_seconds = 0.0
        self.startup_seconds = 0.0
        self.waiting_seconds = 0.0
        self.network_seconds = 0.0
        self.intervals = Intervals()
        self._covered = Covered()
        self._turn_ends: dict[str, float] = {}

    def observe(self, event: Event) -> None:
        """Add ``event`` to the sums."""
        if isinstance(event, TurnEnded):
            self._turn_ended(event)
        elif isinstance(event, SyncEnded):
            self._sync_ended(event)
        elif isinstance(event, RunStarted):
            self.started = event.time
            self.jobs.update({name: JobSums() for name in event.jobs})
        elif isinstance(event, JobStarted):
            sums = self._job(event.job)  # said again when a job learns how long it will be
            sums.begin = self._since_start(event.time) if sums.begin is None else sums.begin
        elif isinstance(event, JobEnded):
            self._job(event.job).end = self._since_start(event.time)
        elif isinstance(event, RunEnded):
            self._since_start(event.time)

    def _job(self, name: str) -> JobSums:
        sums = self.jobs.get(name)
        if sums is None:
            sums = self.jobs[name] = JobSums()
        return sums

    def _since_start(self, time: float) -> float:
        if self.started is None:
            self.started = time
        self.seconds = max(self.seconds, time - self.started)
        return time - self.started

    def _turn_ended(self, event: TurnEnded) -> None:
        end = self._since_start(event.time)
        begin = end - (event.time - event.begin)
        sums = self._job(event.job)
        computed = max(0.0, end - begin - event.waited_seconds - event.startup_seconds)
        sums.count_turn(begin, end, computed)
        sums.startup_seconds += event.startup_seconds
        self.startup_seconds += event.startup_seconds
        self.compute_seconds += computed
        self._turn_ends[event.job] = event.time
        self.intervals.add(self.intervals.compute, begin + event.startup_seconds, end)

    def _sync_ended(self, event: SyncEnded) -> None:
        end = self._since_start(event.time)
        start = event.time - end
        launched, completed = event.launched, event.completed
        waiting = max(0.0, event.time - event.wait_begin)
        self._job(event.job).count_sync(
            launched,
            completed,
            turn_end=self._turn_ends.get(event.job, launched),
            ready=launched if event.ready is None else event.ready,
            hidden_seconds=event.hidden_seconds,
            waiting_seconds=waiting,
            num_bytes=event.num_bytes,
            end=end,
            link_seconds=event.link_seconds or 0.0,
        )
        self.waiting_seconds += waiting
        self.intervals.add(self.intervals.waiting, end - waiting, end)
        for first, last in self._covered.add(launched - start, completed - start):
            self.network_seconds += last - first
            self.intervals.add(self.intervals.network, first, last)

    def to_json(self) -> dict[str, Any]:
        """Return all sums as plain values."""
        return {
            "seconds": self.seconds,
            "compute_seconds": self.compute_seconds,
            "startup_seconds": self.startup_seconds,
            "waiting_seconds": self.waiting_seconds,
            "network_seconds": self.network_seconds,
            "jobs": {name: asdict(sums) for name, sums in self.jobs.items()},
            "intervals": asdict(self.intervals),
        }


@dataclass(frozen=True)
class Estimate:
    """What the measured costs say about other ways to run the same jobs.

    Where several syncs were in flight at once, the network's time is shared out between them; a job alone is taken to
    show the part of its syncs that its own backward passes do not cover.
    """

    works: Mapping[str, Work]
    network_seconds: float  # for how long anything was in flight

    @property
    def compute_seconds(self) -> float:
        """The computing of all jobs."""
        return sum(work.compute_seconds for work in self.works.values())

    @property
    def alone_seconds(self) -> dict[str, float]:
        """What each job takes alone."""
        return {name: work.alone_seconds for name, work in self.works.items()}

    @property
    def longest_job(self) -> str | None:
        """The job that takes longest alone."""
        return max(self.works, key=lambda name: self.works[name].alone_seconds, default=None)

    @property
    def one_after_another_seconds(self) -> float:
        """All jobs, each alone, one after another."""
        return sum(self.alone_seconds.values())

    @property
    def bound_seconds(self) -> float:
        """The least time that these costs allow when the jobs run together (`motet.schedule.bound`)."""
        return bound_seconds(self.works.values())


def estimate(jobs: Mapping[str, JobSums], network_seconds: float) -> Estimate:
    """Derive what the jobs would take alone from what they took together."""
    sizes = {name: sums.num_bytes or sums.sync_seconds for name, sums in jobs.items()}
    whole = sum(sizes.values()) or 1.0
    works = {}
    for name, sums in jobs.items():
        # Nobody measured how the link was shared: by bytes, then.
        sync = sums.link_seconds or min(sums.sync_seconds, network_seconds * sizes[name] / whole)
        works[name] = Work(sums.compute_seconds, sync, sums.alone_overlap_seconds)
    return Estimate(works, network_seconds)
