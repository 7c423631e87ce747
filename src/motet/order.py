"""Whose turn it is, as data: the same cyclic sequence of job names on every worker.

The rules:

- An `Order` is one round. After its last turn comes its first again, until no job is left.
- Nothing here reads a clock, a rank or a random number, so equal inputs give equal orders on every worker. That is
  what keeps collectives from deadlocking (ADR 0004).
- Jobs that have ended keep their places in the order; a `Cursor` passes over them.
- A round holds every job at least once, so that no job starves.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from motet.errors import UsageError


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


@dataclass(frozen=True, slots=True)
class Order:
    """One round of turns, cyclic. `str(order)` is what `parse_order` reads: ``a,b,a,c``."""

    turns: tuple[str, ...]

    def __post_init__(self) -> None:
        assert isinstance(self.turns, tuple), f"an order's turns must be a tuple, got {type(self.turns).__name__}"
        assert self.turns, "an order needs at least one turn"

    @property
    def names(self) -> tuple[str, ...]:
        """The jobs, each once, by their first turns."""
        return tuple(dict.fromkeys(self.turns))

    @property
    def weights(self) -> dict[str, int]:
        """How many turns each job gets in a round."""
        return {name: self.turns.count(name) for name in self.names}

    def __len__(self) -> int:
        return len(self.turns)

    def __str__(self) -> str:
        return ",".join(self.turns)


def round_robin(names: Sequence[str]) -> Order:
    """Return the order that gives each job one turn a round, as they are listed."""
    assert len(set(names)) == len(names), f"job names must differ, got {list(names)}"
    return Order(tuple(names))


def parse_order(given: str | Sequence[str], names: Sequence[str]) -> Order:
    """Return the order that the user gave for the jobs ``names``: ``"a,b,a,c"``, or a sequence of names.

    Raises UsageError where it names an unknown job, leaves one out, or is empty.
    """
    turns = tuple(turn.strip() for turn in given.split(",")) if isinstance(given, str) else tuple(given)
    shown = given if isinstance(given, str) else ",".join(map(str, turns))
    if not any(turns):
        raise UsageError(f"The order is empty (got {shown!r}). Name every job at least once: {','.join(names)}")
    for turn in turns:
        if turn not in names:
            raise UsageError(f"The order {shown!r} names an unknown job {turn!r}.{_remedy(turn, names)}")
    missing = [name for name in names if name not in turns]
    if missing:
        raise UsageError(
            f"The order {shown!r} leaves out {', '.join(map(repr, missing))}, which would never have a turn. "
            "Name every job at least once, or take the job out of this run."
        )
    return Order(turns)


def _remedy(turn: object, names: Sequence[str]) -> str:
    """Return the rest of the message about an unknown name: the nearest right one, and all there are."""
    nearest = difflib.get_close_matches(str(turn), names, n=1)
    meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"{meant} The jobs are: {', '.join(names)}."


class Cursor:
    """A place in an order. Equal calls on every worker give equal turns on every worker."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._position = 0

    @property
    def order(self) -> Order:
        """The order that the next turns follow."""
        return self._order

    def next(self, live: Collection[str]) -> str:
        """Return the job whose turn is next, passing over those not in ``live``.

        At most one round is looked through. Raises ValueError where no job is live; a live job that the order does
        not hold is a bug of ours (it would never have a turn).
        """
        if not live:
            raise ValueError("no job is live: there is no next turn")
        turns = self._order.turns
        strangers = sorted(set(live).difference(turns))
        assert not strangers, f"live but not in the order {self._order}: {', '.join(strangers)}"
        for step in range(len(turns)):
            place = (self._position + step) % len(turns)
            if turns[place] in live:
                self._position = (place + 1) % len(turns)
                return turns[place]
        raise AssertionError("unreachable: some live job is in the order")

    def change(self, order: Order) -> None:
        """Follow ``order`` from its beginning. Call it at an agreed point: after the same turn on every worker."""
        self._order = order
        self._position = 0
