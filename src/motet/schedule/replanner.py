"""When a run changes its order, and to what: from costs that the workers have reported to each other.

A run without a given order begins with a round robin, and its first turns are the profile; or with what turns cost in
an earlier run (`Replanner.know`), which is put right in the same way. Every worker keeps the
figures of each job's last turns (`Replanner.computed`, `Replanner.synced`); now and then all report to
all (`report_costs`, `receive_costs`), with an agreement that is made anyway. From then on nobody needs to ask again:
the order is a pure function of what all have received, so every worker finds the same one, at the same slot (ADR 0004,
ADR 0008).

The order is determined as soon as each live job has one turn that can be measured (`first_known`: after three rounds),
for which an agreement of its own is made, and once more when there are `TURNS_NEEDED` of each; anew when a job ends,
joins or says how long it is, and when costs have drifted.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from motet.schedule.costs import (
    COST_REPORT_LENGTH,
    TURNS_KEPT,
    Cost,
    CostReport,
    SyncSeconds,
    agreed_cost,
    based_on_few,
    longest,
    typical,
)
from motet.schedule.order import Order, round_robin
from motet.schedule.replay import assumed_turns, best_order, fewer_turns, replay

TURNS_SKIPPED = 2
"""A job's first turns are not its costs: memory is allocated, code compiled, DDP's buckets are rebuilt."""
SYNCS_SKIPPED = 1
"""DDP rebuilds its buckets when the second turn begins, so that turn's sync is one like all later ones."""
DRIFT = 0.25
"""Costs have drifted when compute or sync seconds of a job changed by so much of what its turn takes alone."""
WORTH_CHANGING = 1.03
"""After a drift the order changes if the new one should be so many times as fast as the old one."""
REPORT_EVERY = 4
"""Where all costs are known, they are reported with one agreement of so many (about every two seconds)."""


@dataclass(frozen=True, slots=True)
class Change:
    """From now on follow ``order``, and say why."""

    order: Order
    reason: str


@dataclass(frozen=True, slots=True)
class SyncSample:
    """One turn's synchronization as one worker saw it.

    in_flight_seconds: from the first bucket's leaving to the last one's arrival; link_seconds: its share of the time
    during which anything was in flight (`motet.timing.clocks.LinkMeter`); launches: when each bucket left, its bytes.
    """

    in_flight_seconds: float
    link_seconds: float
    num_bytes: int
    launches: tuple[tuple[float, int], ...] = ()


@dataclass(slots=True)
class Meter:
    """What this worker saw of one job's last turns. ``early``: a sync that counts until there is a better one."""

    num_computed: int = 0
    num_synced: int = 0
    compute: deque[float] = field(default_factory=lambda: deque(maxlen=TURNS_KEPT))
    syncs: deque[SyncSample] = field(default_factory=lambda: deque(maxlen=TURNS_KEPT))
    early: SyncSample | None = None

    @property
    def measured(self) -> bool:
        """Whether there is anything to report."""
        return bool(self.compute) and self.early is not None

    def report(self, expected: int | None) -> CostReport:
        """Return what to report; while nothing is measured, only the turns that are expected."""
        if not self.compute or self.early is None:
            return CostReport(expected)
        syncs = self.syncs or [self.early]
        return CostReport(
            expected_turns=expected,
            compute_seconds=typical(self.compute),
            num_bytes=syncs[-1].num_bytes,
            num_turns=min(len(self.compute), len(self.syncs)),
            syncs=tuple(SyncSeconds(sync.in_flight_seconds, sync.link_seconds) for sync in syncs),
        )


def drift(old: Cost, new: Cost) -> float:
    """Return by which part of what a turn took alone its compute or its sync seconds have changed."""
    change = max(abs(new.compute_seconds - old.compute_seconds), abs(new.sync_seconds - old.sync_seconds))
    return change / old.solo_seconds if old.solo_seconds > 0 else (math.inf if change > 0 else 0.0)


class Replanner:
    """What the workers know of the jobs' costs, and the order that follows from it.

    With an order of the user's nothing is reported, and only a job that it does not name changes it. All methods but
    `computed`, `synced` and `report_costs` depend on nothing of this worker alone.
    """

    def __init__(self, order: Order | None, names: Sequence[str]) -> None:
        self.given = order is not None
        self.order = order or round_robin(names)
        self.costs: dict[str, Cost] = {}  # those of which the order was made
        self.known: dict[str, Cost] = {}  # the latest, also of jobs that have ended
        self._received: dict[str, Cost] = {}  # the latest of live jobs
        self._expected: dict[str, int | None] = {}
        self._meters: dict[str, Meter] = {}
        self._few: set[str] = set()  # jobs of which what was received last is based on few turns
        self._provisional: frozenset[str] = frozenset()  # those of which it did when the order was made
        self._reported_first: set[str] = set()
        self._asked: tuple[str, ...] = ()
        self._num_passed = 0
        self._drifted = False

    def know(self, costs: Mapping[str, Cost], expected: Mapping[str, int | None]) -> None:
        """Begin with what turns cost in an earlier run. The order is determined again once turns have been measured.

        ``expected``: the jobs that are to run, and how many turns each will take, as far as that is known.
        """
        self.known.update(costs)
        if self.given:
            return
        self._received = {name: costs[name] for name in expected if name in costs}
        self._few = set(self._received)
        if len(self._received) == len(expected) > 1:
            self._expected = dict(expected)
            self._determined(dict.fromkeys(expected, 0), "costs are known from an earlier run")

    def computed(self, job: str, begin: float, seconds: float, busy_seconds: float) -> None:
        """Take note of a turn that ended with a synchronization: so many seconds of computing from ``begin`` on.

        For ``busy_seconds`` of them something was in flight.
        """
        meter = self._meters.setdefault(job, Meter())
        meter.num_computed += 1
        if meter.num_computed > TURNS_SKIPPED:
            meter.compute.append(seconds)

    def synced(self, job: str, sync: SyncSample) -> None:
        """Take note of a turn's synchronization."""
        meter = self._meters.setdefault(job, Meter())
        meter.num_synced += 1
        if meter.num_synced > TURNS_SKIPPED:
            meter.syncs.append(sync)
        elif meter.num_synced > SYNCS_SKIPPED:
            meter.early = sync

    def over(self, num_slots: int) -> bool:
        """Whether the run stops after so many slots."""
        return False

    def first_known(self, live: Collection[str]) -> bool:
        """Whether to report at once, because an order can be determined now and could not until now.

        All live jobs whose costs are not known have been measured. True once for every job, in the same slot on every
        worker: what has been noted by then is the same everywhere (`motet.timing.device.Journal`).
        """
        if self.given or len(live) < 2:
            return False
        new = [name for name in live if name not in self._received]
        if not new or self._reported_first.issuperset(new):
            return False
        return all(name in self._meters and self._meters[name].measured for name in new)

    def report_costs(self, expected: Mapping[str, int | None]) -> list[float]:
        """Return what this worker reports with the agreement that begins now; empty if costs are not part of it.

        ``expected``: the live jobs, and how many turns each will take, as far as this worker knows.
        """
        self._asked = ()
        self._num_passed += 1
        settled = all(name in self.costs and name not in self._provisional for name in expected)
        if self.given or len(expected) < 2 or (settled and self._num_passed < REPORT_EVERY):
            return []
        self._asked, self._num_passed = tuple(expected), 0
        self._reported_first.update(name for name in expected if name in self._meters and self._meters[name].measured)
        reports = [self._meters.get(name, Meter()).report(turns) for name, turns in expected.items()]
        return [value for report in reports for value in report.pack()]

    def receive_costs(self, reports: Sequence[Sequence[float]], num_synced: Mapping[str, int]) -> Change | None:
        """Take in what all workers reported; return the order to follow from now on if it is another one.

        ``reports``: what `report_costs` gave, by worker. ``num_synced``: the live jobs, and the turns each has taken.
        """
        lengthened = False
        for number, name in enumerate(self._asked):
            if name not in num_synced:
                continue  # it has ended since
            place = slice(number * COST_REPORT_LENGTH, (number + 1) * COST_REPORT_LENGTH)
            of_job = [CostReport.unpack(values[place]) for values in reports]
            cost = agreed_cost(of_job)
            if cost is not None:
                self._received[name] = self.known[name] = cost
                (self._few.add if based_on_few(of_job) else self._few.discard)(name)
            expected = longest(report.expected_turns for report in of_job)
            lengthened = lengthened or (name in self.costs and self._expected.get(name) != expected)
            self._expected[name] = expected
        if self.given or any(name not in self._received for name in num_synced):
            return None
        if new := [name for name in num_synced if name not in self.costs]:
            return self._determined(num_synced, f"the costs of {_named(new)} are known")
        if lengthened:
            return self._determined(num_synced, "jobs have said how long they are")
        if self._provisional and self._few.isdisjoint(num_synced):
            return self._determined(num_synced, "more turns have been measured")
        return self._after_drift(num_synced)

    def joined(self, job: str, live: Iterable[str]) -> Change | None:
        """Return the order to follow now that a job has joined: a round robin, until its costs are known."""
        if job in self.order.names:
            return None
        self.order = round_robin([*(name for name in live if name != job), job])
        return Change(self.order, f"job '{job}' joined")

    def ended(self, job: str, num_synced: Mapping[str, int]) -> Change | None:
        """Return the order for those that go on after a job has ended, if it is another one."""
        for known in (self._meters, self.costs, self._received, self._expected):
            known.pop(job, None)
        self._reported_first.discard(job)
        self._few.discard(job)
        self._provisional -= {job}
        if self.given or len(num_synced) < 2 or any(name not in self._received for name in num_synced):
            return None
        return self._determined(num_synced, f"job '{job}' ended")

    def _after_drift(self, num_synced: Mapping[str, int]) -> Change | None:
        """Determine the order anew if costs have drifted, have stayed so, and it pays.

        Costs that are based on few turns may be wrong: they need not have stayed.
        """
        by = {name: drift(self.costs[name], self._received[name]) for name in num_synced}
        name = max(by, key=lambda name: (by[name], name), default=None)
        if name is None or by[name] <= DRIFT:
            self._drifted = False
            return None
        if not self._drifted and name not in self._provisional:
            self._drifted = True
            return None
        percent = f"{by[name]:.0%}" if by[name] < 100 else "far more than 100%"
        return self._determined(num_synced, f"the costs of job '{name}' changed by {percent}", WORTH_CHANGING)

    def _determined(self, num_synced: Mapping[str, int], reason: str, worth: float = 1.0) -> Change | None:
        """Determine the order from what was received last; return it if it is another one, ``worth`` times as fast."""
        self._drifted = False
        costs = self.costs = {name: self._received[name] for name in num_synced}
        self._provisional = frozenset(self._few.intersection(num_synced))
        remaining = remaining_turns(self._expected, num_synced)
        best = best_order(costs, remaining, current=self.order)
        if best == self.order:
            return None
        if worth > 1.0 and set(costs) <= set(self.order.turns):
            turns = fewer_turns(assumed_turns(costs, remaining), 500)
            seconds = [
                replay(order, costs, turns, num_workers=1, keep_spans=False).total_seconds
                for order in (self.order, best)
            ]
            if seconds[0] < worth * seconds[1]:
                return None
        self.order = best
        return Change(best, reason)


def remaining_turns(expected: Mapping[str, int | None], num_synced: Mapping[str, int]) -> dict[str, int | None]:
    """Return how many turns of each live job are still to come, where it has said how many there will be."""
    return {
        name: None if (turns := expected.get(name)) is None else max(turns - synced, 1)
        for name, synced in num_synced.items()
    }


def _named(names: Sequence[str]) -> str:
    return f"job '{names[0]}'" if len(names) == 1 else f"{len(names)} jobs"
