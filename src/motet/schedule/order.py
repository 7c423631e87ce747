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
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from motet.errors import UsageError

ROUND_ROBIN = "round-robin"
"""What users write for an order in which each job has one turn a round."""


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


def priority_classes(order: Order) -> dict[str, int]:
    """Return each job's class: 0 with more than half as many turns a round as the most, 1 with more than a quarter.

    Jobs of one class wait for each other on the network; others pass them (`motet.gradients.send_queue`).
    """
    weights = order.weights
    most = max(weights.values())
    return {name: (most // weight).bit_length() - 1 for name, weight in weights.items()}


def parse_order(given: str | Sequence[str], names: Sequence[str]) -> Order:
    """Return the order that the user gave for the jobs ``names``: ``"a,b,a,c"``, a sequence, or ``"round-robin"``.

    Raises UsageError where it names an unknown job, leaves one out, or is empty.
    """
    if given == ROUND_ROBIN and ROUND_ROBIN not in names:
        return round_robin(names)
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
    """A place in an order. Equal calls on every worker give equal turns on every worker.

    A shallow copy goes its own way from there.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._names = frozenset(order.turns)
        self._position = 0
        self._begun = False

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
        strangers = () if self._names.issuperset(live) else sorted(set(live) - self._names)
        assert not strangers, f"live but not in the order {self._order}: {', '.join(strangers)}"
        for step in range(len(turns)):
            place = (self._position + step) % len(turns)
            if turns[place] in live:
                self._position = (place + 1) % len(turns)
                self._begun = True
                return turns[place]
        raise AssertionError("unreachable: some live job is in the order")

    def change(self, order: Order) -> None:
        """Follow ``order``. Call it at an agreed point: after the same turn on every worker.

        Before the first turn from its beginning; later from where its turns before are most like those that were
        just taken: a job that had its turn a moment ago would be waited for, at the beginning as anywhere.
        """
        before = self._order.turns[self._position :] + self._order.turns[: self._position]
        self._order = order
        self._names = frozenset(order.turns)
        self._position = 0
        if self._begun:
            taken = [name for name in before if name in self._names]
            self._position = max(range(len(order)), key=lambda place: _num_alike(order.turns, place, taken))


def _num_alike(turns: Sequence[str], place: int, taken: Sequence[str]) -> int:
    """Return how many turns right before ``place``, in a cyclic sequence, are those that were taken last."""
    for back in range(min(len(turns), len(taken))):
        if turns[place - 1 - back] != taken[-1 - back]:
            return back
    return min(len(turns), len(taken))
