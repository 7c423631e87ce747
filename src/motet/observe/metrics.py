"""Logged values: written to ``metrics.jsonl`` as they come, read back as curves.

One line is one call of ``job.log``: ``{"time": <unix seconds>, "job": "wide", "turn": 12, "values": {"loss": 0.4}}``.
A value that is not finite is written as the string ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``, so that each line is
valid JSON; ``float()`` reads all three.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motet.divergence import Diverged, diverged_at_the_end
from motet.events import Event, MetricsLogged, RunEnded, RunStarted


class MetricsWriter:
    """Write worker 0's logged values to ``RUN_DIR/metrics.jsonl``; other workers write nothing.

    Each line reaches the operating system before `observe` returns. OSError (a full disk) is the caller's to report.
    """

    changes_nothing_global = True

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "metrics.jsonl"
        self._file: int | None = None
        self._unix_offset = 0.0

    def observe(self, event: Event) -> None:
        """Write a `MetricsLogged`."""
        if isinstance(event, MetricsLogged):
            if self._file is not None:
                self._write(event)
        elif isinstance(event, RunStarted):
            if event.worker == 0:
                self._unix_offset = event.unix_time - event.time
                self._open()
        elif isinstance(event, RunEnded):
            self.close()

    def close(self) -> None:
        """Close the file. Harmless when it is closed already."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> None:
        self.close()
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")  # a killed run left half a line: it must not spoil the next one

    def _write(self, event: MetricsLogged) -> None:
        record = {
            "time": round(event.time + self._unix_offset, 4),
            "job": event.job,
            "turn": event.turn,
            "values": {name: _plain(value) for name, value in event.values.items()},
        }
        data = json.dumps(record, allow_nan=False).encode() + b"\n"
        assert self._file is not None
        while data:
            data = data[os.write(self._file, data) :]


def _plain(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


@dataclass
class Curve:
    """One value of one job, by turn. ``times`` are unix seconds."""

    turns: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def forget_from(self, turn: int) -> None:
        """Drop what was logged at ``turn`` and later."""
        keep = bisect_left(self.turns, turn)
        del self.turns[keep:], self.times[keep:], self.values[keep:]

    def ends(self) -> tuple[float, float]:
        """Return the mean of the first and of the last twentieth of the finite values (20 of them at most)."""
        finite = [value for value in self.values if math.isfinite(value)]
        if not finite:
            return math.nan, math.nan
        count = max(1, min(20, len(finite) // 20))
        return sum(finite[:count]) / count, sum(finite[-count:]) / count

    def diverged(self) -> Diverged | None:
        """Return how the curve ends, if not in a finite value."""
        return diverged_at_the_end(self.turns, self.values)

    def thinned(self, most: int) -> list[tuple[int, float, float | None]]:
        """Return at most ``most`` points (turn, time, mean); mean None where no value was finite."""
        step = max(1, math.ceil(len(self.values) / most))
        points: list[tuple[int, float, float | None]] = []
        for i in range(0, len(self.values), step):
            finite = [value for value in self.values[i : i + step] if math.isfinite(value)]
            last = min(i + step, len(self.values)) - 1
            points.append((self.turns[last], self.times[last], sum(finite) / len(finite) if finite else None))
        return points


def read_metrics(path: Path) -> dict[str, dict[str, Curve]]:
    """Read ``metrics.jsonl`` as curves by value name and job. Lines that are damaged are left out.

    A job that resumed from a checkpoint logs some turns again: the later record counts.
    """
    curves: dict[str, dict[str, Curve]] = {}
    last_turns: dict[str, int] = {}
    for job, turn, time, values in _records(path):
        if turn < last_turns.get(job, turn):
            for by_job in curves.values():
                if job in by_job:
                    by_job[job].forget_from(turn)
        last_turns[job] = turn
        for name, value in values.items():
            curve = curves.setdefault(name, {}).setdefault(job, Curve())
            curve.turns.append(turn)
            curve.times.append(time)
            curve.values.append(value)
    return curves


def _records(path: Path) -> Iterator[tuple[str, int, float, dict[str, float]]]:
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record: Any = json.loads(line)
                values = {str(name): float(value) for name, value in record["values"].items()}
                yield str(record["job"]), int(record["turn"]), float(record["time"]), values
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
