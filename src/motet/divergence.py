"""Which of a job's values are NaN or infinite by now, and since when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GRADIENTS = "gradients"
LASTING = 10
"""So many times in a row is no accident: mixed precision overflows a few times while it finds its scale."""


@dataclass(frozen=True, slots=True)
class Diverged:
    """A value that is not finite: of which ``kind`` (NaN, infinity), and the turn from which on it never was again."""

    kind: str
    since_turn: int

    def __str__(self) -> str:
        return f"{self.kind} since turn {self.since_turn}"


def kind_of(value: float) -> str:
    """Return ``NaN`` or ``infinity``; '' for a finite value."""
    return "" if math.isfinite(value) else "NaN" if math.isnan(value) else "infinity"


def diverged_at_the_end(turns: Iterable[int], values: Iterable[float]) -> Diverged | None:
    """Return how a curve ends, if not in a finite value."""
    state = State()
    for turn, value in zip(turns, values, strict=True):
        state.note("", turn, kind_of(value))
    return state.now.get("")


class State:
    """One job's values: ``now`` holds those that are not finite, by name; `note` them in the order of the turns."""

    def __init__(self) -> None:
        self.now: dict[str, Diverged] = {}
        self._counts: dict[str, int] = {}

    def note(self, name: str, turn: int, kind: str) -> bool:
        """Take note of a value (``kind``: see `kind_of`); return whether it has not been finite for long."""
        if not kind:
            self.now.pop(name, None)
            self._counts.pop(name, None)
            return False
        before = self.now.get(name)
        self.now[name] = Diverged(kind, turn if before is None else before.since_turn)
        self._counts[name] = self._counts.get(name, 0) + 1
        return self._counts[name] >= LASTING

    def text(self) -> str:
        """Return what is not finite, in a line: ``loss is NaN since turn 9``; '' if everything is."""
        return diverged_text(self.now)

    def to_json(self) -> dict[str, dict[str, object]] | None:
        """Return the form that results.json has; None if everything is finite."""
        return {name: {"value": one.kind, "since_turn": one.since_turn} for name, one in self.now.items()} or None


def diverged_text(values: Mapping[str, Diverged]) -> str:
    """Return ``loss is NaN since turn 9`` for values that are not finite; gradients only where nothing else is."""
    logged = [name for name in values if name != GRADIENTS] or list(values)
    return ", ".join(f"{name} {'are' if name == GRADIENTS else 'is'} {values[name]}" for name in logged)


def from_json(values: Mapping[str, Mapping[str, object]] | None) -> dict[str, Diverged]:
    """Rebuild what `State.to_json` gave."""
    return {
        name: Diverged(str(one.get("value")), int(str(one.get("since_turn", 0))))
        for name, one in (values or {}).items()
    }
