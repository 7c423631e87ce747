"""What a plan for other workers or another link rests on, and how wrong it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist

from motet.schedule.costs import Cost

VALIDATED_WORKERS = 4
"""Predictions have been compared with runs on up to so many workers (benchmarks/README.md)."""

SLOWER_RING = 0.25
"""By how much all-reduces on another link may take longer than is reckoned from its rate."""


@dataclass(frozen=True, slots=True)
class Basis:
    """Where the figures of a profile come from that was not measured as it stands.

    measured_workers: on how many it was measured. bytes_per_second, latency_seconds: the link's that is reckoned with;
    given: by the user, or else what the measured synchronizations come to, without any latency. compute_spread: by
    which fraction (standard deviation) the computing of a job's turns varied on a worker; None: not known.
    """

    measured_workers: int
    bytes_per_second: float
    latency_seconds: float
    given: bool
    compute_spread: float | None = None

    def __post_init__(self) -> None:
        spread = self.compute_spread
        if self.measured_workers < 1 or not self.bytes_per_second > 0 or not (spread is None or 0 <= spread < math.inf):
            raise ValueError(f"a plan cannot rest on {self}")

    def slowest(self, num_workers: int) -> float:
        """Return how many times as long the slowest worker computes where there are so many: all wait for it.

        The measured costs are the slowest's of those that there were. Turns are taken to vary as normal numbers that
        have nothing to do with each other, which overestimates what is due to the data of a turn.
        """
        more = _largest_of(num_workers) - _largest_of(self.measured_workers)
        return 1 + max(more, 0.0) * (self.compute_spread or 0.0)

    def cautious(self, costs: Mapping[str, Cost], num_workers: int) -> dict[str, Cost]:
        """Return the costs where the slowest worker is waited for, and all-reduces take longer than reckoned."""
        return {
            name: replace(
                cost,
                compute_seconds=cost.compute_seconds * self.slowest(num_workers),
                sync_seconds=cost.sync_seconds * (1 + SLOWER_RING),
            )
            for name, cost in costs.items()
        }

    def text(self, num_workers: int) -> list[str]:
        """Return what to say of it, in lines."""
        rate = _rate(self.bytes_per_second)
        link = f"{rate} and {self.latency_seconds * 1e6:.3g} us a message, as given" if self.given else f"{rate}"
        if not self.given:
            link += ", as the measured ones come to, with no latency (--link RATE/LATENCY adds it)"
        workers = f"{self.measured_workers} worker{'s' * (self.measured_workers != 1)}"
        lines = [
            f"rests on computing as measured on {workers}, and on ring all-reduces of the measured bytes at {link}"
        ]
        cautious = f"all-reduces {SLOWER_RING:.0%} slower than that"
        if self.compute_spread is None:
            cautious += "; how much turns vary was not measured, so nothing is added for the slowest worker"
        elif (slowest := self.slowest(num_workers)) > 1:
            cautious += (
                f", and the slowest of {num_workers} workers {slowest - 1:.0%} slower (turns vary by "
                f"{self.compute_spread:.0%})"
            )
        lines.append(f"cautiously: {cautious}")
        if num_workers > VALIDATED_WORKERS:
            lines.append(f"compared with runs on up to {VALIDATED_WORKERS} workers only")
        return lines


def _largest_of(number: int) -> float:
    """Return by how many standard deviations the largest of so many normal numbers exceeds the mean (G. Blom, 1958)."""
    return 0.0 if number < 2 else NormalDist().inv_cdf((number - 0.375) / (number + 0.25))


def _rate(bytes_per_second: float) -> str:
    bits = 8 * bytes_per_second
    unit, size = ("Gbit/s", 1e9) if bits >= 1e9 else ("Mbit/s", 1e6)
    return f"{bits / size:.3g} {unit}" if math.isfinite(bits) else "no limit"
