"""Measure what the turns of jobs cost: each job alone, all in alternation, then all together; a few turns each.

Everything happens in one run on the same workers, so that costs can be compared: first each job's turns that are no
measure (memory, compilation, DDP's buckets), then the jobs by themselves, two times round, and a round robin at the
end. A turn counts as *alone* if the same job had the turn before and has the turn after: nothing else was in flight
while it computed, and nothing else computed while it was in flight. The round robin tells how much slower a worker
computes while something is in flight (gloo moves bytes with the worker's own cores).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from motet.config import DEFAULTS, RunConfig
from motet.errors import UsageError
from motet.jobs import Job
from motet.results import Results
from motet.run_dir import RunDir
from motet.running import Show, run_planned
from motet.schedule.order import Cost, Order
from motet.schedule.plan import Buckets, Profile
from motet.schedule.replanner import TURNS_SKIPPED, Replanner, Sync, sync_seconds, typical
from motet.workers import Workers

NUM_TURNS = 8
_NUM_BLOCKS = 2
_MOST_BUCKETS = 32
_LEAST_BUSY = 0.05  # of the compute seconds: below, nothing can be said about computing while something is in flight
_MOST_CPU_FRACTION = 0.8
_UNKNOWN = -1.0


@dataclass(slots=True)
class _Turn:
    """One turn as this worker saw it; ``sync`` follows when it has arrived."""

    alone: bool
    begin: float
    seconds: float
    busy_seconds: float
    sync: Sync | None = None


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

    def computed(self, job: str, begin: float, seconds: float, busy_seconds: float) -> None:
        if self._last is not None and self._last != job and self._turns[self._last]:
            self._turns[self._last][-1].alone = False  # its gradients were in flight while this job computed
        self._turns[job].append(_Turn(self._last == job, begin, seconds, busy_seconds))
        self._last = job

    def synced(self, job: str, sync: Sync) -> None:
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

    def figures(self) -> list[float]:
        """Return what this worker tells the others at the end: as many numbers on each."""
        return [figure for name in self._names for figure in self._figures(name)]

    def _figures(self, name: str) -> list[float]:
        measured = [turn for turn in self._turns[name][TURNS_SKIPPED:] if turn.sync is not None]
        alone = [turn for turn in measured if turn.alone]
        together = [turn for turn in measured if not turn.alone]
        usable = alone or together or [turn for turn in self._turns[name] if turn.sync is not None]
        expected = self._expected_turns[name]
        figures = [_UNKNOWN if expected is None else float(expected)]
        for turns in (usable, together if alone else []):
            figures += [
                typical(turn.seconds for turn in turns) if turns else _UNKNOWN,
                typical(turn.busy_seconds for turn in turns) if turns else _UNKNOWN,
            ]
        syncs = [turn.sync for turn in usable if turn.sync is not None][-self._num_turns :]
        figures.append(float(syncs[-1].num_bytes) if syncs else _UNKNOWN)
        for sync in syncs:
            figures += [sync.in_flight_seconds, sync.link_seconds]
        figures += [_UNKNOWN] * 2 * (self._num_turns - len(syncs))
        for after, share in _buckets(usable):
            figures += [after, share]
        figures += [_UNKNOWN] * (self._width - 1 - len(figures))
        return [*figures, float(self._state_bytes.get(name, 0))]

    @property
    def _width(self) -> int:
        return 6 + 2 * self._num_turns + 2 * _MOST_BUCKETS + 1

    def profile(self, reports: Sequence[Sequence[float]]) -> Profile:
        """Return the profile, from the figures of all workers; the same on each.

        Raises `UsageError` where a job took no turn that synchronized.
        """
        by_job = {
            name: [figures[number * self._width : (number + 1) * self._width] for figures in reports]
            for number, name in enumerate(self._names)
        }
        for name, figures in by_job.items():
            if any(of_worker[1] == _UNKNOWN for of_worker in figures):
                raise UsageError(
                    f"job {name!r} cannot be planned: it took no turn that synchronized gradients. Wrap its model in "
                    "DistributedDataParallel, or leave it out."
                )
        fraction = _transfer_cpu_fraction(list(by_job.values()))
        expected = {name: max(figures[0] for figures in of_job) for name, of_job in by_job.items()}
        return Profile(
            costs={name: self._cost(of_job, fraction) for name, of_job in by_job.items()},
            expected_turns={name: None if turns == _UNKNOWN else round(turns) for name, turns in expected.items()},
            num_workers=len(reports),
            buckets={name: found for name, of_job in by_job.items() if (found := self._agreed_buckets(of_job))},
            transfer_cpu_fraction=fraction,
            state_bytes={name: round(max(figures[-1] for figures in of_job)) for name, of_job in by_job.items()},
            device=self._device,
        )

    def _cost(self, of_job: Sequence[Sequence[float]], fraction: float) -> Cost:
        compute = max(figures[1] - fraction * figures[2] for figures in of_job)
        pairs = [figures[6 : 6 + 2 * self._num_turns] for figures in of_job]
        syncs = [
            [(total, link) for total, link in zip(of_worker[::2], of_worker[1::2], strict=True) if total >= 0]
            for of_worker in pairs
        ]
        return Cost(max(compute, 0.0), sync_seconds(syncs), round(of_job[0][5]))

    def _agreed_buckets(self, of_job: Sequence[Sequence[float]]) -> Buckets:
        """Return a job's buckets: when each leaves on the average of all workers, and its share of the bytes."""
        place = 6 + 2 * self._num_turns
        counts = {sum(after >= 0 for after in figures[place:-1:2]) for figures in of_job}
        if len(counts) != 1:
            return ()
        buckets = []
        for number in range(counts.pop()):
            after = statistics.fmean(figures[place + 2 * number] for figures in of_job)
            buckets.append((after, of_job[0][place + 2 * number + 1]))
        return tuple(buckets)


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
        else:  # the last of those that are told stands for the rest
            buckets[-1] = (after, buckets[-1][1] + size / total)
    return buckets


def _transfer_cpu_fraction(by_job: Sequence[Sequence[Sequence[float]]]) -> float:
    """Return how much slower the workers compute while something is in flight, from turns alone and together."""
    slower = busier = compute = 0.0
    for of_job in by_job:
        for _, alone, busy_alone, together, busy_together, *_rest in of_job:
            if together == _UNKNOWN:
                continue
            compute += alone
            slower += together - alone
            busier += busy_together - busy_alone
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
            found = planning.profile(workers.finish_agreement(workers.start_agreement(planning.figures())))
        orderly = True
        return found, results
    finally:
        workers.leave(orderly=orderly)
