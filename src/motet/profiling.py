"""Measure what the turns of jobs cost: each job alone, all in alternation, then all together; a few turns each.

Everything happens in one run on the same workers, so that costs can be compared: first each job's turns that are no
measure (memory, compilation, DDP's buckets), then the jobs by themselves, two times round, and a round robin at the
end. A turn counts as *alone* if the same job had the turn before and has the turn after: nothing else was in flight
while it computed, and nothing else computed while it was in flight. The round robin shows how much slower a worker
computes while something is in flight (gloo moves bytes with the worker's own cores).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from motet.config import DEFAULTS, RunConfig
from motet.errors import UsageError
from motet.jobs import Job
from motet.results import Results
from motet.run_dir import RunDir
from motet.running import Show, run_planned
from motet.schedule.costs import UNKNOWN, Cost, SyncSeconds, longest, sync_seconds, typical, unpack_syncs
from motet.schedule.order import Order
from motet.schedule.plan import Buckets, Profile
from motet.schedule.replanner import TURNS_SKIPPED, Replanner, SyncSample
from motet.workers import Workers

NUM_TURNS = 8
_NUM_BLOCKS = 2
_MOST_BUCKETS = 32
_LEAST_BUSY = 0.05  # of the compute seconds: below, nothing can be said about computing while something is in flight
_MOST_CPU_FRACTION = 0.8


@dataclass(slots=True)
class _Turn:
    """One turn as this worker saw it; ``sync`` follows when it has arrived."""

    alone: bool
    begin: float
    seconds: float
    busy_seconds: float
    sync: SyncSample | None = None


class ComputeSeconds(NamedTuple):
    """What a turn computed, and for how much of that something was in flight."""

    total: float
    busy: float


@dataclass(frozen=True, slots=True)
class JobReport:
    """What one worker reports of one job's profile; ``None`` stands for what it has not seen.

    ``alone``: turns beside which nothing else was in flight; ``together``: turns of the round robin.
    ``compute_spread``: the standard deviation of the turns' computing, as a fraction.
    """

    expected_turns: int | None
    alone: ComputeSeconds | None
    together: ComputeSeconds | None
    num_bytes: int
    syncs: tuple[SyncSeconds, ...]
    buckets: Buckets
    state_bytes: int
    compute_spread: float = 0.0

    @staticmethod
    def length(num_turns: int) -> int:
        """Return how many numbers a report takes that has up to ``num_turns`` synchronizations."""
        return 8 + 2 * num_turns + 2 * _MOST_BUCKETS

    def pack(self, num_turns: int) -> list[float]:
        """Return the report as `length` numbers."""
        nothing = (UNKNOWN, UNKNOWN)
        values = [
            UNKNOWN if self.expected_turns is None else float(self.expected_turns),
            *(self.alone or nothing),
            *(self.together or nothing),
            float(self.num_bytes),
            float(self.state_bytes),
            self.compute_spread,
        ]
        for pairs, most in ((self.syncs, num_turns), (self.buckets, _MOST_BUCKETS)):
            for pair in (*pairs, *[nothing] * (most - len(pairs))):
                values += pair
        return values

    @classmethod
    def unpack(cls, values: Sequence[float], num_turns: int) -> Self:
        """Return what was packed into these numbers."""
        expected, alone, busy_alone, together, busy_together, num_bytes, state_bytes, spread, *pairs = values
        syncs, buckets = pairs[: 2 * num_turns], pairs[2 * num_turns :]
        return cls(
            expected_turns=None if expected == UNKNOWN else round(expected),
            alone=None if alone == UNKNOWN else ComputeSeconds(alone, busy_alone),
            together=None if together == UNKNOWN else ComputeSeconds(together, busy_together),
            num_bytes=round(num_bytes),
            syncs=unpack_syncs(syncs),
            buckets=tuple(pair for pair in zip(buckets[::2], buckets[1::2], strict=True) if pair[0] >= 0),
            state_bytes=round(state_bytes),
            compute_spread=spread,
        )


class Profiling(Replanner):
    """Leads the jobs through a profile, and keeps what it sees. The run stops when all turns are taken."""

    def __init__(self, names: Sequence[str], num_turns: int) -> None:
        super().__init__(profile_order(names, num_turns), names)
        self._names = tuple(names)
        self._num_turns = num_turns
        self._turns: dict[str, list[_Turn]] = {name: [] for name in names}
        self._expected_turns: dict[str, int | None] = dict.fromkeys(names)
        self._last: str | None = None
        self._state_bytes: dict[str, int] = {}
        self._device = "cpu"

    def know(self, costs: Mapping[str, Cost], expected: Mapping[str, int | None]) -> None:
        """Measure all the same."""

    def computed(self, job: str, begin: float, seconds: float, busy_seconds: float) -> None:
        if self._last is not None and self._last != job and self._turns[self._last]:
            self._turns[self._last][-1].alone = False  # its gradients were in flight while this job computed
        self._turns[job].append(_Turn(self._last == job, begin, seconds, busy_seconds))
        self._last = job

    def synced(self, job: str, sync: SyncSample) -> None:
        if self._turns[job]:
            self._turns[job][-1].sync = sync

    def over(self, num_slots: int) -> bool:
        return num_slots >= len(self.order)

    def report_costs(self, expected: Mapping[str, int | None]) -> list[float]:
        self._expected_turns.update(expected)
        return []

    def hold(self, results: Results) -> None:
        """Take note of what the jobs held on this worker, of which ``--offload idle`` would move a part."""
        for name, job in results.jobs.items():
            if job.memory is not None:
                self._state_bytes[name] = job.memory["offload_bytes"]
                kind = job.memory["device"].partition(":")[0]
                self._device = kind if self._device == "cpu" else self._device

    def report(self) -> list[float]:
        """Return what this worker reports to the others at the end: as many numbers on each."""
        return [value for name in self._names for value in self._report_of(name).pack(self._num_turns)]

    def _report_of(self, name: str) -> JobReport:
        measured = [turn for turn in self._turns[name][TURNS_SKIPPED:] if turn.sync is not None]
        alone = [turn for turn in measured if turn.alone]
        together = [turn for turn in measured if not turn.alone]
        usable = alone or together or [turn for turn in self._turns[name] if turn.sync is not None]
        syncs = [turn.sync for turn in usable if turn.sync is not None][-self._num_turns :]
        return JobReport(
            expected_turns=self._expected_turns[name],
            alone=_typical_compute(usable),
            together=_typical_compute(together if alone else []),
            num_bytes=syncs[-1].num_bytes if syncs else 0,
            syncs=tuple(SyncSeconds(sync.in_flight_seconds, sync.link_seconds) for sync in syncs),
            buckets=tuple(_buckets(usable)),
            state_bytes=self._state_bytes.get(name, 0),
            compute_spread=_spread([turn.seconds for turn in usable]),
        )

    def profile(self, reports: Sequence[Sequence[float]]) -> Profile:
        """Return the profile, from what all workers reported; the same on each.

        Raises `UsageError` where a job took no turn that synchronized.
        """
        length = JobReport.length(self._num_turns)
        by_job = {
            name: [
                JobReport.unpack(values[number * length : (number + 1) * length], self._num_turns) for values in reports
            ]
            for number, name in enumerate(self._names)
        }
        for name, of_job in by_job.items():
            if any(report.alone is None for report in of_job):
                raise UsageError(
                    f"job {name!r} cannot be planned: it took no turn that synchronized gradients. Wrap its model in "
                    "DistributedDataParallel, or leave it out."
                )
        fraction = _transfer_cpu_fraction(list(by_job.values()))
        return Profile(
            costs={name: _cost(of_job, fraction) for name, of_job in by_job.items()},
            expected_turns={name: longest(each.expected_turns for each in of_job) for name, of_job in by_job.items()},
            num_workers=len(reports),
            buckets={name: found for name, of_job in by_job.items() if (found := _agreed_buckets(of_job))},
            transfer_cpu_fraction=fraction,
            state_bytes={name: max(report.state_bytes for report in of_job) for name, of_job in by_job.items()},
            device=self._device,
            compute_spread=max(each.compute_spread for of_job in by_job.values() for each in of_job),
        )


def _spread(seconds: Sequence[float]) -> float:
    """Return the standard deviation of some turns' seconds, as a fraction of their mean."""
    mean = statistics.fmean(seconds) if seconds else 0.0
    return statistics.stdev(seconds) / mean if len(seconds) > 1 and mean > 0 else 0.0


def _typical_compute(turns: Sequence[_Turn]) -> ComputeSeconds | None:
    if not turns:
        return None
    return ComputeSeconds(typical(turn.seconds for turn in turns), typical(turn.busy_seconds for turn in turns))


def _cost(of_job: Sequence[JobReport], fraction: float) -> Cost:
    compute = max(each.alone.total - fraction * each.alone.busy for each in of_job if each.alone is not None)
    return Cost(max(compute, 0.0), sync_seconds([each.syncs for each in of_job]), of_job[0].num_bytes)


def _agreed_buckets(of_job: Sequence[JobReport]) -> Buckets:
    """Return a job's buckets: when each leaves on the average of all workers, and its share of the bytes."""
    if len({len(each.buckets) for each in of_job}) != 1:
        return ()
    shares = [share for _, share in of_job[0].buckets]
    leaves = [statistics.fmean(after for after, _ in same) for same in zip(*(e.buckets for e in of_job), strict=True)]
    return tuple(zip(leaves, shares, strict=True))


def profile_order(names: Sequence[str], num_turns: int) -> Order:
    """Return the turns of a profile: each job a few times to begin with, alone ``num_turns`` times, then together.

    Of a block of turns of one job, the first and the last are not alone.
    """
    in_block = -(-num_turns // _NUM_BLOCKS) + 2
    begin = list(names) * (TURNS_SKIPPED + 1)
    blocks = [name for _ in range(_NUM_BLOCKS) for name in names for _ in range(in_block)]
    return Order((*begin, *blocks, *(list(names) * (num_turns + 1))))


def _buckets(turns: Sequence[_Turn]) -> list[tuple[float, float]]:
    """Return after which fraction of a turn each bucket leaves, on average, and its share of the bytes."""
    launches = [(turn, turn.sync.launches) for turn in turns if turn.sync is not None and turn.seconds > 0]
    if not launches:
        return []
    count = len(launches[-1][1])
    alike = [(turn, sent) for turn, sent in launches if len(sent) == count]
    total = sum(size for _, size in launches[-1][1]) or 1
    buckets: list[tuple[float, float]] = []
    for number, (_, size) in enumerate(launches[-1][1]):
        after = typical((sent[number][0] - turn.begin) / turn.seconds for turn, sent in alike)
        after = min(max(after, buckets[-1][0] if buckets else 0.0), 1.0)
        if number < _MOST_BUCKETS:
            buckets.append((after, size / total))
        else:  # the last of those that are reported stands for the rest
            buckets[-1] = (after, buckets[-1][1] + size / total)
    return buckets


def _transfer_cpu_fraction(by_job: Sequence[Sequence[JobReport]]) -> float:
    """Return how much slower the workers compute while something is in flight, from turns alone and together."""
    slower = busier = compute = 0.0
    for report in (report for of_job in by_job for report in of_job):
        if report.alone is None or report.together is None:
            continue
        compute += report.alone.total
        slower += report.together.total - report.alone.total
        busier += report.together.busy - report.alone.busy
    if busier <= _LEAST_BUSY * compute:
        return 0.0
    return min(max(slower / busier, 0.0), _MOST_CPU_FRACTION)


def profile(
    jobs: Sequence[Job],
    *,
    num_turns: int = NUM_TURNS,
    run_dir: RunDir | None = None,
    show: Show | None = None,
    config: RunConfig = DEFAULTS,
) -> tuple[Profile | None, Results]:
    """Let each job take a few turns, then stop them all; return what they cost, the same on every worker.

    Collective, as `motet.run`; the jobs are really run, and what they do besides training is done. Without a profile
    where a job failed: see the results. Raises `UsageError` where a job never synchronized.
    """
    workers = Workers.join(timeout_seconds=config.timeout_seconds)
    orderly = False
    try:
        planning = Profiling([job.name for job in jobs], num_turns)
        results = run_planned(jobs, planning, config, run_dir=run_dir, show=show)
        if any(job.status == "failed" for job in results.jobs.values()):
            found = None
        else:
            planning.hold(results)
            found = planning.profile(workers.finish_agreement(workers.start_agreement(planning.report())))
        orderly = True
        return found, results
    finally:
        workers.leave(orderly=orderly)
