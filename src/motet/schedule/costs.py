"""What a turn of a job costs, and how all workers agree on it: from what each has measured of the latest turns."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from motet.errors import DivergenceError

TURNS_NEEDED = 3
"""An order that is based on fewer turns of a job is provisional: it is determined once more when there are so many."""
TURNS_KEPT = 6
"""So many of the last turns count. A vote among them, so that one stall does not change the order."""
UNKNOWN = -1.0
"""Stands, where numbers are sent, for one that a worker does not know."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one turn of a job takes: seconds of computing, seconds and bytes of synchronization.

    ``sync_seconds`` is the time on an otherwise idle network. Raises ValueError where a number is negative or not
    finite.
    """

    compute_seconds: float
    sync_seconds: float
    sync_bytes: int = 0

    def __post_init__(self) -> None:
        for name in ("compute_seconds", "sync_seconds", "sync_bytes"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{name} must be a finite number, 0 or more; got {value!r}")

    @property
    def solo_seconds(self) -> float:
        """Seconds from one turn to the next when the job runs alone and hides nothing."""
        return self.compute_seconds + self.sync_seconds


class SyncSeconds(NamedTuple):
    """One synchronization: from the first bucket's leaving to the last one's arrival, and its share of the link."""

    in_flight: float
    link: float


@dataclass(frozen=True, slots=True)
class CostReport:
    """What one worker reports of one job: `CostReport.LENGTH` numbers in an agreement.

    ``compute_seconds`` is None while nothing is measured; ``expected_turns`` where the job has not said how many;
    ``num_turns``: on how many measured turns all of it is based.
    """

    expected_turns: int | None = None
    compute_seconds: float | None = None
    num_bytes: int = 0
    num_turns: int = 0
    syncs: tuple[SyncSeconds, ...] = ()

    def pack(self) -> list[float]:
        """Return the report as numbers, as many for each job."""
        values = [
            UNKNOWN if self.expected_turns is None else float(self.expected_turns),
            UNKNOWN if self.compute_seconds is None else self.compute_seconds,
            float(self.num_bytes),
            float(self.num_turns),
            *(seconds for sync in self.syncs for seconds in sync),
        ]
        return values + [UNKNOWN] * (COST_REPORT_LENGTH - len(values))

    @classmethod
    def unpack(cls, values: Sequence[float]) -> Self:
        """Return what was packed into these numbers."""
        expected, compute, num_bytes, num_turns, *syncs = values
        return cls(
            expected_turns=None if expected == UNKNOWN else round(expected),
            compute_seconds=None if compute == UNKNOWN else compute,
            num_bytes=round(num_bytes),
            num_turns=round(num_turns),
            syncs=unpack_syncs(syncs),
        )


COST_REPORT_LENGTH = 4 + 2 * TURNS_KEPT


def unpack_syncs(values: Sequence[float]) -> tuple[SyncSeconds, ...]:
    """Return the synchronizations among pairs of numbers, of which some may be unknown."""
    pairs = (SyncSeconds(*pair) for pair in zip(values[::2], values[1::2], strict=True))
    return tuple(pair for pair in pairs if pair.in_flight >= 0)


def longest(numbers_of_turns: Iterable[int | None]) -> int | None:
    """Return the most turns that any worker expects, None if none does."""
    return max((number for number in numbers_of_turns if number is not None), default=None)


def typical(values: Iterable[float]) -> float:
    """Return the mean of the middle half: one stall among three or more does not move it, and little noise is left."""
    ranked = sorted(values)
    cut = (len(ranked) + 1) // 4
    return statistics.fmean(ranked[cut : len(ranked) - cut])


def sync_seconds(by_worker: Sequence[Sequence[SyncSeconds]]) -> float:
    """Return what a job's synchronization takes on an idle network, from what each worker saw of the same turns.

    A worker that launches early counts the wait for the slowest as time in flight. Of each turn, the worker counts
    that launched last: the one with the shortest time in flight. Raises `DivergenceError` if the workers have
    synchronized different numbers of turns.
    """
    if len({len(of_worker) for of_worker in by_worker}) > 1:
        counts = ", ".join(f"worker {worker}: {len(of_worker)}" for worker, of_worker in enumerate(by_worker))
        raise DivergenceError(
            f"The workers have measured different numbers of a job's latest synchronizations ({counts}), so they have "
            "not taken the same turns. Look for an `if` on the rank around backward() or no_sync()."
        )
    return typical(min(turn).link for turn in zip(*by_worker, strict=True))


def agreed_cost(by_worker: Sequence[CostReport]) -> Cost | None:
    """Return a job's cost from what all workers reported, or None where turns were too few.

    The slowest worker's compute seconds are those of the gang, because all wait for it. Raises `DivergenceError` if
    the workers have synchronized different numbers of turns.
    """
    computes = [report.compute_seconds for report in by_worker if report.compute_seconds is not None]
    if len(computes) < len(by_worker):
        return None
    seconds = sync_seconds([report.syncs for report in by_worker])
    return Cost(max(computes), seconds, max(report.num_bytes for report in by_worker))


def based_on_few(by_worker: Sequence[CostReport]) -> bool:
    """Return whether any worker's report of a job is based on fewer turns than `TURNS_NEEDED`."""
    return any(report.num_turns < TURNS_NEEDED for report in by_worker)
