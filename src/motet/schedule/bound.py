"""The bound: the least time that costs allow, in any order. Measured runs, replays and reports all ask here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """What one job takes of a worker and of the network, in all its turns.

    ``sync_seconds`` is its share of the time during which anything is in flight; ``covered_seconds`` the part of its
    own synchronization that its own backward passes cover, as under plain DDP.
    """

    compute_seconds: float
    sync_seconds: float
    covered_seconds: float = 0.0

    @property
    def alone_seconds(self) -> float:
        """What the job takes with worker and network to itself: its turns follow one after another."""
        return self.compute_seconds + max(0.0, self.sync_seconds - self.covered_seconds)


def bound_seconds(works: Collection[Work]) -> float:
    """Return the largest of all computing, all synchronization, and the job that takes longest alone; 0 for no jobs."""
    return max(
        sum(work.compute_seconds for work in works),
        sum(work.sync_seconds for work in works),
        max((work.alone_seconds for work in works), default=0.0),
    )


def efficiency(bound: float, seconds: float) -> float | None:
    """Return bound over measured time, at most 1 (costs are measured, too); None where nothing was measured."""
    return min(1.0, bound / seconds) if seconds > 0 else None
