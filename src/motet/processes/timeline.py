"""What the job processes of one worker computed, and what of their synchronizations was hidden: from what they report.

Each job reports when it held the turn, and when its gradients left and came (`motet.processes.turn_table.Stretch`).
Laid side by side, these give what the pipeline of jobs that live together measures as it goes: a turn's computing, a
synchronization's time in flight, the part of it in which this worker computed something, its share of the network's
busy time.
"""

from __future__ import annotations

import bisect
import itertools
import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from motet.events import Event, SyncEnded, TurnEnded
from motet.pipeline.ledger import RunLedger
from motet.processes.turn_table import Stretch

KEPT = 4096
TURNS_SKIPPED, TURNS_KEPT = 2, 6
"""As `motet.schedule.replanner`: a job's first turns are not its costs, and the last so many are."""


@dataclass(slots=True)
class Timing:
    """One synchronization's figures, as `motet.pipeline.ledger` takes them."""

    launched: float
    completed: float
    hidden_seconds: float
    link_seconds: float
    num_bytes: int
    launches: list[tuple[float, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Turn:
    """A turn that is under way: its first moment, its computing, and how many were before it."""

    begin: int = 0
    held: int = 0
    holds: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Costs:
    """What a job's last turns took on this worker."""

    num_turns: int = 0
    compute: deque[float] = field(default_factory=lambda: deque(maxlen=TURNS_KEPT))
    sync: deque[float] = field(default_factory=lambda: deque(maxlen=TURNS_KEPT))
    num_bytes: int = 0

    def figures(self) -> tuple[float, float, int] | None:
        """Return compute seconds, sync seconds and bytes of a turn; None while nothing is known."""
        if not self.compute or not self.sync:  # a synchronization is known a little later than its turn
            return None
        return statistics.median(self.compute), statistics.median(self.sync), self.num_bytes


class Timeline:
    """Puts together what the jobs of this worker report. ``observe`` receives each turn and synchronization."""

    def __init__(self, accounts: RunLedger, observe: Callable[[Event], None]) -> None:
        self._ledger = accounts
        self._observe = observe
        self._holds: list[tuple[int, int]] = []  # sorted
        self._flights: list[tuple[int, int, int]] = []  # the third: when the last of all up to this one arrived
        self._turns: defaultdict[str, _Turn] = defaultdict(_Turn)
        self._trained: set[str] = set()
        self._numbers: dict[str, int] = {}  # the last turn of each job
        self._late: list[tuple[str, Stretch, float, int]] = []
        self._waited_until = 0
        self.costs: defaultdict[str, Costs] = defaultdict(Costs)

    def add(self, reported: Iterable[tuple[str, Stretch]], offsets: Callable[[str], int]) -> None:
        """Take in what the jobs have reported since the last time. ``offsets(job)``: its turns of before a resume.

        A synchronization counts one call later: by then all is known of what the worker computed meanwhile.
        """
        late, self._late = self._late, []
        ordered = sorted(reported, key=lambda each: each[1].end)
        for _, stretch in ordered:
            if not stretch.synchronized and stretch.end > stretch.begin:
                bisect.insort(self._holds, (stretch.begin, stretch.end))
            elif stretch.synchronized:
                latest = max(stretch.arrived, self._flights[-1][2] if self._flights else 0)
                self._flights.append((stretch.launched, stretch.arrived, latest))
        for known in (self._holds, self._flights):
            if len(known) > 2 * KEPT:
                del known[:-KEPT]
        for each in late:
            self._sync(*each)
        for job, stretch in ordered:
            turn = self._turns[job]
            if not stretch.synchronized:
                turn.begin = turn.begin or stretch.begin
                turn.held += stretch.end - stretch.begin
                turn.holds.append((stretch.begin, stretch.end))
                continue
            self._turn_over(job, stretch, offsets(job))
            self._late.append((job, stretch, stretch.end / 1e9, offsets(job)))

    def ended(self, job: str) -> None:
        """Take note that a job has ended: what it computed after its last synchronization is a turn, too."""
        late, self._late = self._late, []
        for each in late:
            self._sync(*each)
        turn, number = self._turns.pop(job, _Turn()), self._numbers.pop(job, 0) + 1
        self._ledger.computed(job, turn.held / 1e9)
        if turn.holds:
            begin, end = turn.holds[0][0] / 1e9, turn.holds[-1][1] / 1e9
            self._observe(TurnEnded(time=end, job=job, turn=number, begin=begin, synchronizing=False))
        self._trained.discard(job)
        self.costs.pop(job, None)

    def _turn_over(self, job: str, stretch: Stretch, offset: int) -> None:
        self._numbers[job] = stretch.turn + offset
        turn = self._turns.pop(job, _Turn())
        end = max((end for _, end in turn.holds), default=stretch.end)
        begin = turn.begin or end
        startup = 0
        if job not in self._trained:  # until its first backward a job imports and builds
            self._trained.add(job)
            startup = sum(max(min(end, stretch.backward) - begin, 0) for begin, end in turn.holds)
        computed = (turn.held - startup) / 1e9
        self._ledger.computed(job, computed, startup / 1e9)
        costs = self.costs[job]
        costs.num_turns += 1
        if costs.num_turns > TURNS_SKIPPED:
            costs.compute.append(computed)
        self._observe(
            TurnEnded(
                time=end / 1e9,
                job=job,
                turn=stretch.turn + offset,
                begin=begin / 1e9,
                synchronizing=True,
                waited_seconds=max(end - begin - turn.held, 0) / 1e9,
                startup_seconds=startup / 1e9,
            )
        )

    def _sync(self, job: str, stretch: Stretch, turn_end: float, offset: int) -> None:
        launched, arrived = stretch.launched, max(stretch.arrived, stretch.launched)
        hidden = self._overlap(launched, arrived)
        timing = Timing(
            launched / 1e9,
            arrived / 1e9,
            hidden / 1e9,
            self._share(launched, arrived) / 1e9,
            stretch.num_bytes,
            [(launched / 1e9, stretch.num_bytes)],
        )
        self._ledger.synced(job, timing, turn_end)
        costs = self.costs[job]
        costs.num_bytes = stretch.num_bytes
        if costs.num_turns > TURNS_SKIPPED:
            costs.sync.append(timing.link_seconds)
        self._observe(
            SyncEnded(
                time=arrived / 1e9,
                job=job,
                turn=stretch.turn + offset,
                launched=timing.launched,
                completed=timing.completed,
                wait_begin=self._idle_since(max(stretch.end, launched), arrived) / 1e9,
                hidden_seconds=timing.hidden_seconds,
                num_bytes=stretch.num_bytes,
                num_collectives=1,
                ready=timing.launched,
                link_seconds=timing.link_seconds,
            )
        )

    def _idle_since(self, begin: int, arrived: int) -> int:
        """Return since when nobody has computed on this worker, when gradients came: that is for whom it waited.

        Where it waited for several jobs' at once, that counts as the first one's.
        """
        last = bisect.bisect_left(self._holds, (arrived, 0)) - 1
        until = max(begin, self._waited_until, self._holds[last][1] if last >= 0 else 0)
        self._waited_until = max(self._waited_until, arrived)
        return min(until, arrived)

    def _overlap(self, begin: int, end: int) -> int:
        """Return for how long between two moments some job of this worker had the turn."""
        total, until = 0, begin
        first = max(bisect.bisect_left(self._holds, (begin, 0)) - 64, 0)
        for at in range(first, len(self._holds)):
            since, to = self._holds[at]
            if since >= end:
                break
            if to > until:
                total += max(min(to, end) - max(since, until), 0)
                until = max(until, min(to, end))
        return total

    def _share(self, begin: int, end: int) -> float:
        """Return a synchronization's share of the network's time: while k are in flight, each is charged 1/k."""
        others = []
        for launched, arrived, latest in reversed(self._flights):
            if latest <= begin:
                break
            if launched < end and arrived > begin:
                others.append((max(launched, begin), min(arrived, end)))
        edges = sorted({begin, end, *(moment for pair in others for moment in pair)})
        total = 0.0
        for left, right in itertools.pairwise(edges):
            num = sum(1 for b, e in others if b <= left and e >= right)
            total += (right - left) / max(num, 1)
        return total
