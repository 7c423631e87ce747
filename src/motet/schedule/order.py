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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from motet.errors import UsageError

MAX_ROUND_TURNS = 64
"""A determined round is at most this long, or 8 turns a job where there are more than 8 jobs.

Long enough to give one turn of a job to 63 of another; short enough to read, and to reach every job soon."""

ROUND_ROBIN = "round-robin"
"""What users write for an order in which each job has one turn a round."""

WEIGHT_TOLERANCE = 0.05
"""Turns per round are taken from the shortest round in which no job gets 5 % more of its due than another."""


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


def priority_classes(order: Order) -> dict[str, int]:
    """Return each job's rank: 0 with more than half as many turns a round as the most, 1 with more than a quarter, etc.

    Jobs of one rank wait for each other on the network; others pass them (`motet.gradients.send_queue`).
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


def determine(costs: Mapping[str, Cost], remaining: Mapping[str, int | None]) -> Order:
    """Return an order for jobs of these costs, of which so many turns remain (None, or left out: not known).

    It depends on the numbers and the names alone, not on the worker or on how the mappings are sorted. See
    `turns_per_round` for who gets how many turns, `spread` for where they lie, `johnson` for how a round begins.
    """
    assert costs, "there are no jobs to order"
    return spread(turns_per_round(costs, remaining), johnson(costs))


def turns_per_round(costs: Mapping[str, Cost], remaining: Mapping[str, int | None]) -> dict[str, int]:
    """Return how many turns each job gets in a round, one at least.

    Where all jobs say how many turns remain: in proportion to that, so that all end together. Where none does: so
    that each keeps the same fraction of its solo speed. Where some do: those share, in proportion to what remains,
    as much of the time as if each kept the common fraction; the others keep it.
    """
    shares = _shares(costs, remaining)
    weights = dict.fromkeys(shares, 1)
    best, least = dict(weights), _unevenness(weights, shares)
    # One more turn at a time, to the job that is furthest below its due (the method of Webster and Sainte-Lague, who
    # shared out seats in parliaments): it meets every ratio that a round of that length can meet.
    for _ in range(_longest_round(len(shares)) - len(weights)):
        if least <= WEIGHT_TOLERANCE:
            break
        name = max(weights, key=lambda name: shares[name] / (weights[name] + 0.5))
        weights[name] += 1
        unevenness = _unevenness(weights, shares)
        if unevenness < least:
            best, least = dict(weights), unevenness
    return best


def _shares(costs: Mapping[str, Cost], remaining: Mapping[str, int | None]) -> dict[str, float]:
    """Return how many turns each job should get for each of another's: only their ratios mean something."""
    names = sorted(costs)  # by name, so that equal jobs and rounding come out alike on every worker
    solo = solo_seconds(costs)
    # A job may run past the turns that it announced; while it lives, it has a turn to come.
    known = {name: max(turns, 1) for name in names if (turns := remaining.get(name)) is not None}
    known_seconds = sum(solo[name] * turns for name, turns in known.items())
    return {name: len(known) * known[name] / known_seconds if name in known else 1 / solo[name] for name in names}


def solo_seconds(costs: Mapping[str, Cost]) -> dict[str, float]:
    """Return what a turn of each job takes alone, in no case so little that a round could not hold its turns.

    Without that floor, a turn that costs nothing would deserve infinitely many.
    """
    solo = {name: cost.solo_seconds for name, cost in costs.items()}
    shortest = max(solo.values()) / _longest_round(len(costs)) or 1.0
    return {name: max(seconds, shortest) for name, seconds in solo.items()}


def _longest_round(num_jobs: int) -> int:
    return max(MAX_ROUND_TURNS, 8 * num_jobs)


def _unevenness(weights: Mapping[str, int], shares: Mapping[str, float]) -> float:
    """Return by which fraction the best served job is ahead of the worst served."""
    served = [weights[name] / share for name, share in shares.items()]
    return max(served) / min(served) - 1


def johnson(costs: Mapping[str, Cost]) -> list[str]:
    """Return the jobs' names in the order in which one turn of each ends soonest; equals by name.

    Optimal for two machines in a row, here compute and network: S. M. Johnson, "Optimal two- and three-stage
    production schedules with setup times included", Naval Research Logistics Quarterly 1 (1954), 61-68.
    """
    soon = [name for name, cost in costs.items() if cost.compute_seconds <= cost.sync_seconds]
    late = [name for name, cost in costs.items() if cost.compute_seconds > cost.sync_seconds]
    soon.sort(key=lambda name: (costs[name].compute_seconds, name))
    late.sort(key=lambda name: (-costs[name].sync_seconds, name))
    return soon + late


def spread(weights: Mapping[str, int], ranking: Sequence[str]) -> Order:
    """Return a round with so many turns of each job, spread evenly, that begins with ``ranking[0]``.

    Any m turns in a row, also across the end of the round, hold a job's fair share, m * weight / length, give or take
    `spread_tolerance`: one turn with two jobs, 2.6 with eight. Ties go by ``ranking``, which holds each job once.
    """
    assert sorted(weights) == sorted(ranking), "the ranking must hold each job once"
    assert all(weight >= 1 for weight in weights.values()), "each job needs a turn in each round"
    length = sum(weights.values())
    # Smooth weighted round robin: whoever is most due gets the turn. `due` counts in turns * length, so it is exact.
    due = dict.fromkeys(ranking, 0)
    turns: list[str] = []
    for _ in range(length):
        for name in ranking:
            due[name] += weights[name]
        most_due = max(ranking, key=lambda name: due[name])
        due[most_due] -= length
        turns.append(most_due)
    # Where a round begins is free, as it is cyclic: begin where the jobs' first turns come nearest to the ranking.
    rank = {name: number for number, name in enumerate(ranking)}
    starts = [place for place, name in enumerate(turns) if name == ranking[0]]
    rotations = [tuple(turns[start:] + turns[:start]) for start in starts]
    return Order(min(rotations, key=lambda rotation: [rank[name] for name in dict.fromkeys(rotation)]))


def spread_tolerance(num_jobs: int) -> float:
    """Return by how many turns a stretch of `spread` may differ from a job's fair share: ``H(J) - 1/J``.

    After a turn no job is ahead by more than 1 - 1/J (it was the most due, so at least as due as the mean, which is
    1/J), and none is behind by more than H(J) - 1, with H the harmonic numbers: the k most due are, on average, at
    most 1/(k+1) more due than the k+1 most due, and all J together are 0. A stretch lies between two such states.
    """
    return sum(1 / k for k in range(1, num_jobs + 1)) - 1 / num_jobs


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
