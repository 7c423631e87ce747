"""The order that is determined from costs: how many turns each job gets in a round, and where in it they lie.

Nothing here reads a clock, a rank or a random number: equal costs give the same order on every worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from motet.schedule.costs import Cost
from motet.schedule.order import Order

MAX_ROUND_TURNS = 64
"""A determined round is at most this long, or 8 turns a job where there are more than 8 jobs.

Long enough to give one turn of a job to 63 of another; short enough to read, and to reach every job soon."""

WEIGHT_TOLERANCE = 0.05
"""Turns per round are taken from the shortest round in which no job gets 5 % more of its due than another."""


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
    return begun_by(turns, ranking)


def begun_by(turns: Sequence[str], ranking: Sequence[str]) -> Order:
    """Return a round that begins, as it is cyclic, where its jobs' first turns come nearest to the ranking."""
    positions = {name: number for number, name in enumerate(ranking)}
    starts = [place for place, name in enumerate(turns) if name == ranking[0]]
    rotations = [(*turns[start:], *turns[:start]) for start in starts]
    return Order(min(rotations, key=lambda rotation: [positions[name] for name in dict.fromkeys(rotation)]))


def spread_tolerance(num_jobs: int) -> float:
    """Return by how many turns a stretch of `spread` may differ from a job's fair share: ``H(J) - 1/J``.

    After a turn no job is ahead by more than 1 - 1/J (it was the most due, so at least as due as the mean, which is
    1/J), and none is behind by more than H(J) - 1, with H the harmonic numbers: the k most due are, on average, at
    most 1/(k+1) more due than the k+1 most due, and all J together are 0. A stretch lies between two such states.
    """
    return sum(1 / k for k in range(1, num_jobs + 1)) - 1 / num_jobs
