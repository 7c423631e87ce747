"""Measurements in alternation: in each repeat every method once, in an order that rotates."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gang import Figures


@dataclass(frozen=True)
class Spread:
    """A median, with the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of some values."""
    if len(values) < 2:
        return Spread(*(values[0],) * 3)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


def alternate(methods: Mapping[str, Callable[[], Figures]], repeats: int, what: str = "") -> dict[str, list[Figures]]:
    """Run every method ``repeats`` times, so that what the machine does meanwhile hits all alike."""
    names = list(methods)
    rows: dict[str, list[Figures]] = {name: [] for name in names}
    for repeat in range(repeats):
        begin = time.monotonic()
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            rows[name].append(methods[name]())
        took = time.monotonic() - begin
        print(f"  {what} {repeat + 1}/{repeats} in {took:.0f} s", file=sys.stderr, flush=True)
    return rows


def ratios(slow: Sequence[Figures], fast: Sequence[Figures]) -> Spread:
    """Return how many times as long ``slow`` took, repeat by repeat."""
    return spread([a.seconds / b.seconds for a, b in zip(slow, fast, strict=True)])


def undisturbed(laps: Sequence[float]) -> float:
    """Return the first decile of some times of the same work: what else the machine does can only make one longer."""
    return statistics.quantiles(laps, n=10, method="inclusive")[0]


def median_seconds(rows: Sequence[Figures]) -> float:
    """Return the median time."""
    return statistics.median(row.seconds for row in rows)
