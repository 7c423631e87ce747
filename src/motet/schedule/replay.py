"""Replay an order against costs: how long it takes, what idles, and whether it can go wrong. Nothing is measured here.

What is assumed of the runtime, and of nothing else:

- A worker has one compute unit. At a job's turn it waits until the job's previous synchronization has arrived, then
  computes a forward part and a backward part. During the backward part the gradients leave in buckets.
- A bucket is sent once every worker has launched it, and after the buckets that were launched before it on its lane.
- The network is one resource, as a ring of equal links is. Lanes that have something to send share it equally, or
  all jobs stand in one lane: first come, first served.
- With `Assumptions.offload`, jobs that are idle are kept in the host's memory: see `motet.schedule.offload_model`.
- After its last turn a job comes round once more: the worker waits for the last gradients, and the job ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from motet.schedule import bound
from motet.schedule.costs import Cost
from motet.schedule.order import Cursor, Order, round_robin
from motet.schedule.ready_first import ready_first
from motet.schedule.simulator import Assumptions, Simulator, SimWorker, Span
from motet.schedule.weights import determine, johnson, solo_seconds

__all__ = [
    "SEQUENTIAL",
    "TYPICAL",
    "Assumptions",
    "Replay",
    "Span",
    "assumed_turns",
    "best_order",
    "bound_seconds",
    "fewer_turns",
    "replay",
    "replay_side_by_side",
    "solo_turn_seconds",
]


TYPICAL = Assumptions()
"""What holds about jobs of which nothing is known but their costs: a backward of twice the forward, four buckets."""

_WORTH_TRYING = 0.995
"""A round that was found by trying has to be faster by so much: it is less evenly spread than the determined one."""

SEQUENTIAL = Assumptions(num_buckets=1)
"""Nothing of a turn's own synchronization is hidden behind the turn itself."""


@dataclass(frozen=True, slots=True)
class Replay:
    """What a run would be like. Seconds of compute, and hidden and exposed seconds, are means over the workers.

    total_seconds: from the first turn to the end of the last job.
    finish_seconds: when each job ends.
    compute_idle_seconds, network_idle_seconds: for how long a worker computes nothing, and nothing is in flight.
    hidden_seconds, exposed_seconds: for how long something is in flight while a worker computes, and while it does not.
    state_wait_seconds: for how long a worker waits for nothing but a job's state (`motet.schedule.offload_model`).
    bound_seconds, efficiency: see `bound_seconds`; bound over total.
    spans: what happened, sorted by begin. Workers that do the same are drawn once, as the first of them.
    """

    total_seconds: float
    finish_seconds: Mapping[str, float]
    compute_idle_seconds: float
    network_idle_seconds: float
    hidden_seconds: float
    exposed_seconds: float
    state_wait_seconds: float
    bound_seconds: float
    efficiency: float
    spans: tuple[Span, ...] = field(repr=False)


def bound_seconds(costs: Mapping[str, Cost], turns: Mapping[str, int], assumptions: Assumptions = SEQUENTIAL) -> float:
    """Return the least time that these costs allow for so many turns of each job, in any order.

    Compute and network each have their whole work to do, and each job its turns one after another:
    ``max(sum t c, sum t n, max t (c + n))``. Where buckets leave during a backward, c + n in the last term becomes the
    shorter time from the begin of a turn to the arrival of its last bucket on an idle network.
    """
    works = []
    for name, cost in costs.items():
        compute, sync = cost.compute_seconds, cost.sync_seconds
        covered = compute + sync - solo_turn_seconds(cost, assumptions, name)
        works.append(bound.Work(turns[name] * compute, turns[name] * sync, turns[name] * covered))
    return bound.bound_seconds(works)


def solo_turn_seconds(cost: Cost, assumptions: Assumptions = SEQUENTIAL, job: str = "") -> float:
    """Return the time from the begin of a turn to the arrival of its gradients, when nothing else is going on."""
    synced = 0.0
    for fraction, share in assumptions.buckets_of(job):
        synced = max(synced, fraction * cost.compute_seconds) + share * cost.sync_seconds
    return synced


def replay(
    order: Order | Sequence[Order],
    costs: Mapping[str, Cost],
    turns: Mapping[str, int],
    *,
    num_workers: int = 2,
    assumptions: Assumptions = TYPICAL,
    keep_spans: bool = True,
) -> Replay:
    """Replay so many turns of each job. ``order`` may be a sequence with one order for each worker.

    ``costs`` and ``turns`` have the same keys. Workers that do the same are computed once, so that without jitter any
    number of them takes no longer than one.
    Raises DivergenceError where the workers' orders lead to a deadlock or to a mismatch, and says where.
    """
    orders = [order] * num_workers if isinstance(order, Order) else list(order)
    assert orders, "a replay needs at least one worker"
    assert costs.keys() == turns.keys(), "costs and turns must speak of the same jobs"
    nowhere = [name for name in costs if not any(name in own.turns for own in orders)]
    assert not nowhere, f"no worker's order holds {', '.join(nowhere)}"
    groups: dict[object, list[int]] = {}
    for worker, own in enumerate(orders):
        groups.setdefault(worker if assumptions.jitter else own, []).append(worker)
    live = {name: count for name, count in turns.items() if count > 0}
    sims = [
        SimWorker(workers[0], len(workers), Cursor(orders[workers[0]]), dict(live), assumptions)
        for workers in groups.values()
    ]
    simulator = Simulator(sims, costs, live, assumptions, keep_spans)
    simulator.run()
    return _summary(simulator, costs, bound_seconds(costs, turns, assumptions))


def replay_side_by_side(
    costs: Mapping[str, Cost],
    turns: Mapping[str, int],
    *,
    assumptions: Assumptions = TYPICAL,
    keep_spans: bool = False,
) -> Replay:
    """Replay the jobs as separate processes, which share each worker's compute unit and its network equally.

    Nothing is lost in switching between processes, and all workers slice their time alike: real ones do worse.
    In the spans, ``worker`` counts the processes.
    """
    assumptions = replace(assumptions, lanes="shared", offload=None)  # each with groups and a device memory of its own
    live = {name: count for name, count in turns.items() if count > 0}
    sims = [
        SimWorker(number, 1, Cursor(Order((name,))), {name: count}, assumptions)
        for number, (name, count) in enumerate(live.items())
    ]
    simulator = Simulator(sims, costs, live, assumptions, keep_spans, one_compute_unit=True)
    simulator.run()
    return _summary(simulator, costs, bound_seconds(costs, turns, assumptions))


def _summary(ended: Simulator, costs: Mapping[str, Cost], bound: float) -> Replay:
    """Return what a replay that has ended came to."""
    total = max(ended.finish.values(), default=0.0)
    return Replay(
        total_seconds=total,
        finish_seconds={name: ended.finish.get(name, 0.0) for name in costs},
        compute_idle_seconds=max(total - ended.computed, 0.0),
        network_idle_seconds=max(total - ended.sent, 0.0),
        hidden_seconds=ended.hidden,
        exposed_seconds=max(ended.sent - ended.hidden, 0.0),
        state_wait_seconds=ended.waited_for_state,
        bound_seconds=bound,
        efficiency=bound / total if total else 1.0,
        spans=tuple(sorted(ended.spans or (), key=lambda span: (span.begin, span.end))),
    )


def assumed_turns(costs: Mapping[str, Cost], remaining: Mapping[str, int | None]) -> dict[str, int]:
    """Return the turns to reckon with: what remains, where it is known.

    A job that does not say is taken to go on for as long, alone, as the longest of those that do; where none does,
    all go on for as long as the slowest needs for 100 turns.
    """
    solo = solo_seconds(costs)
    known = {name: turns for name in costs if (turns := remaining.get(name)) is not None}
    seconds = max((turns * solo[name] for name, turns in known.items()), default=100 * max(solo.values()))
    return {name: known.get(name, max(round(seconds / solo[name]), 1)) for name in costs}


def fewer_turns(turns: Mapping[str, int], max_turns: int) -> dict[str, int]:
    """Return turns in the same proportions, as nearly as may be, of which there are about ``max_turns`` at most."""
    scale = max(sum(turns.values()) / max_turns, 1.0)
    return {name: max(round(count / scale), min(count, 1)) for name, count in turns.items()}


def best_order(
    costs: Mapping[str, Cost],
    remaining: Mapping[str, int | None],
    *,
    current: Order | None = None,
    assumptions: Assumptions = TYPICAL,
    max_turns: int = 350,
) -> Order:
    """Return the order that is fastest in a replay: the current, the determined, a round robin, or `ready_first`.

    Among equals the first of these. The replay is of `assumed_turns`, scaled down to about ``max_turns`` in all, and
    without jitter: it takes some 10 to 30 ms, and comes out the same on every worker, however the mappings are sorted
    there. A candidate that cannot be the fastest any more is not replayed to its end.
    """
    turns = fewer_turns(assumed_turns(costs, remaining), max_turns)
    steady = replace(assumptions, jitter=0.0)
    determined = determine(costs, remaining)
    candidates = [determined, round_robin(johnson(costs)), round_robin(sorted(costs))]
    if current is not None and costs.keys() <= set(current.turns):
        candidates.insert(1, current)
    # The determined one first: it is the fastest, as a rule, and the others are soon given up. Equal ones are replayed
    # once.
    best, best_seconds = candidates[0], math.inf
    tried = ready_first(costs, determined, steady)
    for order in dict.fromkeys([*candidates, tried] if tried else candidates):
        limit = best_seconds * (_WORTH_TRYING if order not in candidates else 1 + 1e-9)
        sim = SimWorker(0, 1, Cursor(order), dict(turns), steady)
        simulator = Simulator([sim], costs, turns, steady, keep_spans=False)
        if not simulator.run(limit):
            continue
        seconds = max(simulator.finish.values())
        if seconds < min(best_seconds, limit) or (order == current and seconds == best_seconds):
            best, best_seconds = order, seconds
    return best
