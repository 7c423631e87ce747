"""The event loop of a replay: pieces of compute and of sending that share what they run on, until all have ended.

Next to the time it keeps two clocks: one shows how much a busy compute unit has computed, one how much a sending lane
has sent. Whatever is under way ends at a known reading of its clock, however often the speeds change, so an event
costs a step in a heap, and no look at all that is under way. `motet.schedule.replay` says what is assumed of a run.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import inf
from typing import Literal

from motet.errors import DivergenceError
from motet.schedule.costs import Cost
from motet.schedule.offload_model import CopyStream, OffloadModel, is_offloaded
from motet.schedule.order import Cursor, Order, priority_classes


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a replay takes for granted about jobs, workers and network.

    forward_fraction: the part of a turn's compute that lies before the backward.
    num_buckets: into how many equal buckets a turn's gradients are cut.
    first_bucket_after: the fraction of the backward after which the first bucket leaves (None: ``1 / num_buckets``);
        the others follow at equal distances, the last one at the end of the backward.
    buckets: for jobs of which more is known, their buckets instead: pairs of the fraction of the turn's compute after
        which one leaves, and its share of the sync seconds, in the order of leaving.
    lanes: ``"queued"``, first come, first served among jobs of one class (`motet.schedule.order.priority_classes`), as
        `motet.gradients.send_queue` has it, classes sharing the network; ``"shared"``, all jobs sharing it; ``"one"``,
        first come, first served.
    transfer_cpu_fraction: how much of the compute unit a transfer takes (gloo's runs on the worker's own cores).
    offload: what idle jobs move to the host's memory and back (``--offload idle``); None: all stay on the device.
    jitter: the standard deviation of a turn's compute seconds on each worker, as a fraction of them; ``seed`` fixes it.
    """

    forward_fraction: float = 1 / 3
    num_buckets: int = 4
    first_bucket_after: float | None = None
    buckets: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    lanes: Literal["queued", "shared", "one"] = "queued"
    transfer_cpu_fraction: float = 0.0
    offload: OffloadModel | None = None
    jitter: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        after = self.first_bucket_after
        for name, ok in {
            "forward_fraction": 0 <= self.forward_fraction <= 1,
            "num_buckets": self.num_buckets >= 1,
            "first_bucket_after": after is None or 0 <= after <= 1,
            "lanes": self.lanes in ("queued", "shared", "one"),
            "transfer_cpu_fraction": 0 <= self.transfer_cpu_fraction < 1,
            "jitter": self.jitter >= 0,
            "buckets": all(map(_is_in_order, self.buckets.values())),
        }.items():
            if not ok:
                raise ValueError(f"{name} is out of its range: {getattr(self, name)!r}")

    def buckets_of(self, job: str) -> tuple[tuple[float, float], ...]:
        """Return when a job's buckets leave, as a fraction of a turn's compute, and their shares; the last is at 1."""
        if (known := self.buckets.get(job)) is not None:
            return known if known and known[-1][0] == 1 else (*known, (1.0, 0.0))
        share = 1 / self.num_buckets
        first = share if self.first_bucket_after is None else self.first_bucket_after
        step = (1 - first) / max(self.num_buckets - 1, 1)
        backward = [first + step * bucket for bucket in range(self.num_buckets - 1)]
        return (
            *((self.forward_fraction + (1 - self.forward_fraction) * part, share) for part in backward),
            (1.0, share),
        )


def _is_in_order(buckets: tuple[tuple[float, float], ...]) -> bool:
    """Return whether buckets leave one after the other within a turn, and none has a negative share."""
    times = [0.0, *(time for time, _ in buckets), 1.0]
    return times == sorted(times) and all(share >= 0 for _, share in buckets)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a replay: a turn's compute, the wait for a turn's gradients (and the job's state), or their sync.

    The network is one for all workers: where it is a "sync", ``worker`` is None.
    """

    worker: int | None
    what: Literal["compute", "wait", "sync"]
    job: str
    turn: int
    begin: float
    end: float


def lanes_of(order: Order, assumptions: Assumptions) -> dict[str, str]:
    """Return on which lane each job's gradients are in flight."""
    if assumptions.lanes == "queued":
        return {name: f"class {number}" for name, number in priority_classes(order).items()}
    return {name: name if assumptions.lanes == "shared" else "" for name in order.names}


class SimWorker:
    """A worker, or several that do the same: where it is in its order, and what it does there."""

    def __init__(
        self, worker: int, num_workers: int, cursor: Cursor, left: dict[str, int], assumptions: Assumptions
    ) -> None:
        self.worker = worker
        self.num_workers = num_workers
        self.cursor = cursor
        self.left = left  # the turns to come of each live job
        self.live = [name for name in left if name in cursor.order.turns]
        self.lanes = lanes_of(cursor.order, assumptions)
        self.num_launched = dict.fromkeys(self.lanes.values(), 0)
        self.job = ""
        self.turn = 0
        self.bucket = 0
        self.duration = 0.0  # compute seconds of this turn, as the compute clock counts them
        self.began_clock = 0.0
        self.began = 0.0
        self.waits = False
        self.side = None if assumptions.offload is None else CopyStream(assumptions.offload)
        self._jitter = assumptions.jitter
        self._random = random.Random(f"{assumptions.seed} {worker}")

    def noise(self) -> float:
        """Return what this turn's compute seconds are multiplied with: 1 on average."""
        if not self._jitter:
            return 1.0
        return self._random.lognormvariate(-(self._jitter**2) / 2, self._jitter)

    def following(self) -> str:
        """Return the job that has the turn after this one."""
        return copy.copy(self.cursor).next(self.live)


class _Lane:
    """Buckets in the order in which they are launched, by all workers alike."""

    def __init__(self) -> None:
        self.issued: list[tuple[str, int, int]] = []  # job, turn, bucket
        self.issued_by: list[int] = []  # the first worker to launch it
        self.num_workers: list[int] = []  # how many have launched it
        self.head = 0
        self.sends = False


class Simulator:
    """The event loop of a replay. Every event ends a piece of compute or a bucket's sending."""

    def __init__(
        self,
        sims: list[SimWorker],
        costs: Mapping[str, Cost],
        turns: Mapping[str, int],
        assumptions: Assumptions,
        keep_spans: bool,
        one_compute_unit: bool = False,
    ) -> None:
        self._sims, self._costs, self._turns, self._assumptions = sims, costs, turns, assumptions
        self._buckets = {name: assumptions.buckets_of(name) for name in turns}
        self._one_compute_unit = one_compute_unit
        self._num_workers = 1 if one_compute_unit else sum(sim.num_workers for sim in sims)
        self._lanes = {name: _Lane() for sim in sims for name in sim.lanes.values()}
        self._speed_beside_sends = 1 - assumptions.transfer_cpu_fraction
        self._synced = dict.fromkeys(turns, 0)  # the last turn whose gradients have arrived
        self._waiting: dict[str, list[int]] = {name: [] for name in turns}
        self._sync_began: dict[str, float] = {}
        self.finish: dict[str, float] = {}
        self.spans: list[Span] | None = [] if keep_spans else None
        self._time = self._compute_clock = self._network_clock = 0.0
        self._compute_ends: list[tuple[float, int]] = []  # reading of the compute clock, number of the unit
        self._send_ends: list[tuple[float, int, str]] = []  # reading of the network clock, a count, lane
        self._num_sends = 0
        self._state_back: list[tuple[float, int]] = []  # when a job has its state that a unit waits for, the unit
        self._num_computing = 0  # workers
        self.computed = self.sent = self.hidden = self.waited_for_state = 0.0

    def run(self, limit_seconds: float = inf) -> bool:
        """Go through all events. Raises DivergenceError where the workers wait for each other for ever.

        Returns False, in the middle, once what is left to compute or to send cannot end within ``limit_seconds``; not
        to be asked for with jitter, which makes turns shorter as well, or processes side by side.
        """
        self._limit = limit_seconds
        turns = sorted(self._turns.items())  # sums of floats depend on their order
        self._least_compute = sum(self._costs[name].compute_seconds * count for name, count in turns)
        self._least_network = sum(self._costs[name].sync_seconds * count for name, count in turns)
        for number in range(len(self._sims)):
            self._next_turn(number)
        compute_ends, send_ends, state_back = self._compute_ends, self._send_ends, self._state_back
        while compute_ends or send_ends or state_back:
            what = self._pass_time()
            if what == "compute":
                self._compute_clock, number = heappop(compute_ends)
                self._launch_bucket(number)
            elif what == "state":
                back, number = heappop(state_back)
                self._time = max(self._time, back)  # not a rounding error before it
                self._next_turn(number)
            else:
                self._network_clock, _, lane = heappop(send_ends)
                self._bucket_arrived(lane)
                if self._hopeless():
                    return False
        stuck = [sim for sim in self._sims if sim.live]
        if stuck or len(self.finish) < len(self._turns):
            raise DivergenceError(f"The workers' orders lead to a deadlock: {self._deadlock(stuck)}.")
        return True

    def _hopeless(self) -> bool:
        """Whether what is left to compute, or to send, cannot end within the limit, even if nothing idles any more."""
        least = max(self._least_compute - self.computed, self._least_network - self.sent)
        return self._time + least > self._limit

    def _pass_time(self) -> Literal["compute", "state", "sync"]:
        """Let time pass until something that is under way ends, and return what it is.

        The clocks go as fast as a unit computes and a lane sends. A run of some hundred turns has thousands of events,
        so this is one function, and a long one.
        """
        compute_ends, send_ends = self._compute_ends, self._send_ends
        num_sends = len(send_ends)
        compute_speed = self._speed_beside_sends if num_sends else 1.0
        if self._one_compute_unit:
            compute_speed /= max(self._num_computing, 1)
        until_computed = (compute_ends[0][0] - self._compute_clock) / compute_speed if compute_ends else inf
        send_speed = until_else = until_sent = inf
        if num_sends:
            send_speed = 1 / num_sends
            until_else = until_sent = (send_ends[0][0] - self._network_clock) / send_speed
        if self._state_back:
            until_else = min(until_sent, self._state_back[0][0] - self._time)
        seconds = until_computed if until_computed < until_else else until_else
        began = self._time
        if seconds > 0:
            computing = self._num_computing / self._num_workers
            computed = seconds if computing >= 1 else seconds * computing
            self._time += seconds
            self.computed += computed
            if compute_ends:
                self._compute_clock += seconds * compute_speed
            if num_sends:
                self._network_clock += seconds * send_speed
                self.sent += seconds
                self.hidden += computed
        if until_computed <= until_else:
            return "compute"
        return "state" if self._state_back and self._state_back[0][0] - began <= until_sent else "sync"

    def _next_turn(self, number: int) -> None:
        """Begin the next turn of a unit, or its wait for that turn's job; end the jobs that are at their ends."""
        sim = self._sims[number]
        while sim.live:
            if not sim.waits:
                sim.job = sim.cursor.next(sim.live)
                sim.turn = self._turns[sim.job] - sim.left[sim.job] + 1
                sim.began = self._time
                if sim.side is not None:
                    sim.side.back_at(sim.job, self._time)  # asked for now, if nobody knew that this job was next
            if self._synced[sim.job] < sim.turn - 1:
                sim.waits = True
                self._waiting[sim.job].append(number)
                return
            if sim.side is not None and self._waits_for_state(number):
                return
            if sim.waits:
                sim.waits = False
                self._note(sim.worker, "wait", sim.job, sim.turn - 1, sim.began)
            if sim.left[sim.job]:
                self._begin_turn(number)
                return
            sim.live.remove(sim.job)
            self.finish[sim.job] = self._time

    def _waits_for_state(self, number: int) -> bool:
        """Wait for what the unit's job has in the host's memory; if it is there, begin to bring back the next one's."""
        sim = self._sims[number]
        assert sim.side is not None
        back = sim.side.back_at(sim.job, self._time)
        if back > self._time:
            sim.waits = True
            self.waited_for_state += (back - self._time) * sim.num_workers / self._num_workers
            heappush(self._state_back, (back, number))
            return True
        sim.side.returned(sim.job)
        sim.side.begin_return(sim.following(), self._time)
        return False

    def _begin_turn(self, number: int) -> None:
        sim = self._sims[number]
        sim.bucket = 0
        sim.began, sim.began_clock = self._time, self._compute_clock
        sim.duration = self._costs[sim.job].compute_seconds * sim.noise()
        self._num_computing += sim.num_workers
        self._compute_bucket(number)

    def _compute_bucket(self, number: int) -> None:
        """Compute as far as the unit's next bucket."""
        sim = self._sims[number]
        fraction, _ = self._buckets[sim.job][sim.bucket]
        heappush(self._compute_ends, (sim.began_clock + fraction * sim.duration, number))

    def _launch_bucket(self, number: int) -> None:
        """A unit has computed as far as its next bucket: launch it; after the last one, end the turn."""
        sim = self._sims[number]
        bucket = (sim.job, sim.turn, sim.bucket)
        name = sim.lanes[sim.job]
        lane = self._lanes[name]
        position = sim.num_launched[name]
        sim.num_launched[name] = position + 1
        if position == len(lane.issued):
            lane.issued.append(bucket)
            lane.issued_by.append(sim.worker)
            lane.num_workers.append(0)
        elif lane.issued[position] != bucket:
            raise DivergenceError(_mismatch(sim, bucket, lane.issued_by[position], lane.issued[position]))
        lane.num_workers[position] += sim.num_workers
        if not lane.sends:
            self._send_next(name)
        sim.bucket += 1
        if sim.bucket < len(self._buckets[sim.job]):
            self._compute_bucket(number)
            return
        self._num_computing -= sim.num_workers
        sim.left[sim.job] -= 1
        if sim.side is not None and is_offloaded(sim.job, sim.following(), len(sim.live)):
            sim.side.put_away(sim.job, self._time)
        self._note(sim.worker, "compute", sim.job, sim.turn, sim.began)
        self._next_turn(number)

    def _send_next(self, name: str) -> None:
        """Begin to send what is next on a lane, if nothing is being sent there and all workers have launched it."""
        lane = self._lanes[name]
        if lane.sends or lane.head == len(lane.issued) or lane.num_workers[lane.head] < self._num_workers:
            return
        job, _, bucket = lane.issued[lane.head]
        lane.sends = True
        if bucket == 0:
            self._sync_began[job] = self._time
        seconds = self._costs[job].sync_seconds * self._buckets[job][bucket][1]
        self._num_sends += 1
        heappush(self._send_ends, (self._network_clock + seconds, self._num_sends, name))

    def _bucket_arrived(self, name: str) -> None:
        """A lane has sent a bucket: after a turn's last one, whoever waits for it goes on."""
        lane = self._lanes[name]
        job, turn, bucket = lane.issued[lane.head]
        lane.sends = False
        lane.head += 1
        self._send_next(name)
        if bucket < len(self._buckets[job]) - 1:
            return
        self._synced[job] = turn
        self._note(None, "sync", job, turn, self._sync_began[job])
        waiting, self._waiting[job] = self._waiting[job], []
        for number in waiting:
            self._next_turn(number)

    def _note(
        self, worker: int | None, what: Literal["compute", "wait", "sync"], job: str, turn: int, begin: float
    ) -> None:
        if self.spans is not None:
            self.spans.append(Span(worker, what, job, turn, begin, self._time))

    def _deadlock(self, stuck: list[SimWorker]) -> str:
        """Return who waits for what, and who does not deliver it."""
        waits = []
        for sim in stuck:
            turn = sim.turn - 1
            late = [f"worker {other.worker}" for other in self._sims if self._num_computed(other, sim.job) < turn]
            cause = f", which {' and '.join(late)} would compute later" if late else ""
            waits.append(f"worker {sim.worker} waits for the gradients of {sim.job!r}, turn {turn}{cause}")
        return "; ".join([*waits, "give every worker the same order"])

    def _num_computed(self, sim: SimWorker, job: str) -> int:
        return self._turns[job] - sim.left[job]


def _mismatch(sim: SimWorker, bucket: tuple[str, int, int], first: int, expected: tuple[str, int, int]) -> str:
    """Say which two workers launch different buckets in the same place of a lane."""
    (job, turn, _), (first_job, first_turn, _) = bucket, expected
    return (
        f"The workers' orders mismatch: on one lane, worker {first} synchronizes {first_job!r}, turn {first_turn}, "
        f"where worker {sim.worker} synchronizes {job!r}, turn {turn}; give every worker the same order."
    )
