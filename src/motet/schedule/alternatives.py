"""The same costs on other links, with other numbers of workers, and trained in other ways; and what to do then."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from motet.errors import UsageError
from motet.schedule.costs import Cost
from motet.schedule.order import Order
from motet.schedule.replay import (
    SEQUENTIAL,
    TYPICAL,
    Assumptions,
    Replay,
    best_order,
    bound_seconds,
    fewer_turns,
    replay,
    replay_side_by_side,
)

WORTH_IT = 1.1
"""Motet is advised where it should be at least so many times as fast: less may be an error of the prediction."""

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """What joins the workers: bytes per second that each sends while it receives as many, and seconds per message."""

    bytes_per_second: float
    latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_second > 0 or not self.latency_seconds >= 0:
            raise ValueError(f"a link needs a rate above 0 and a latency of 0 or more; got {self}")

    def all_reduce_seconds(self, num_bytes: float, num_workers: int, num_collectives: int = 1) -> float:
        """Return what ring all-reduces of ``num_bytes`` in all take: ``2 (W-1)/W bytes/rate + 2 (W-1) latency`` each.

        The cost is that of R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of collective communication
        operations in MPICH", Int. J. of High Performance Computing Applications 19 (2005), 49-66, without the time to
        add; no all-reduce can send less: P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for
        clusters of workstations", J. of Parallel and Distributed Computing 69 (2009), 117-124.
        """
        steps = 2 * (num_workers - 1)
        return steps / num_workers * num_bytes / self.bytes_per_second + num_collectives * steps * self.latency_seconds


def parse_link(text: str) -> LinkSpec:
    """Return the link that a user described: a rate in bits per second, and a latency if wished, as in ``10gbit/50us``.

    Raises UsageError where it cannot be read.
    """
    match = re.fullmatch(r"([0-9.]+)\s*([kmgt]?)bit(?:\s*/\s*([0-9.]+)\s*(s|ms|us))?", text.strip().lower())
    try:
        if match is None:
            raise ValueError
        rate, unit, latency, latency_unit = match.groups()
        seconds = float(latency) / {"s": 1, "ms": 1e3, "us": 1e6}[latency_unit] if latency else 0.0
        return LinkSpec(float(rate) * _UNITS[unit] / 8, seconds)
    except ValueError:
        raise UsageError(
            f"The link {text!r} cannot be read. Give a rate in kbit, mbit or gbit per second, and a latency in s, ms "
            "or us if you know it: 300mbit, 10gbit, 10gbit/50us."
        ) from None


def on_link(
    costs: Mapping[str, Cost], link: LinkSpec, num_workers: int, assumptions: Assumptions = TYPICAL
) -> dict[str, Cost]:
    """Return the costs on another link or number of workers, where each worker computes what it did.

    Sync seconds are reckoned anew from the bytes, as ring all-reduces, one for each bucket.
    """
    return {
        name: replace(
            cost,
            sync_seconds=link.all_reduce_seconds(cost.sync_bytes, num_workers, len(assumptions.buckets_of(name))),
        )
        for name, cost in costs.items()
    }


def one_after_another_seconds(
    costs: Mapping[str, Cost], turns: Mapping[str, int], assumptions: Assumptions = TYPICAL
) -> float:
    """Return the time of one DDP run after another, each overlapping a backward with its own synchronization."""

    def turn_seconds(name: str) -> float:
        # A job alone waits for its gradients before it computes on, so that all its turns are alike.
        alone = replay(Order((name,)), {name: costs[name]}, {name: 1}, num_workers=1, assumptions=assumptions)
        return alone.total_seconds

    return sum(turns[name] * turn_seconds(name) for name in costs if turns[name])


def no_overlap_seconds(costs: Mapping[str, Cost], turns: Mapping[str, int]) -> float:
    """Return the time of one run after another in which each turn computes first and synchronizes then."""
    return one_after_another_seconds(costs, turns, SEQUENTIAL)


def one_model_per_worker_seconds(costs: Mapping[str, Cost], turns: Mapping[str, int], num_workers: int) -> float:
    """Return the time if each job ran on one worker alone, which holds all data and needs no synchronization.

    For the same samples as all workers share in a turn, one worker computes as many times as long. The longest jobs
    go first, each to the worker that is free the soonest.
    """
    busy_until = [0.0] * num_workers
    for seconds in sorted(
        (turns[name] * num_workers * cost.compute_seconds for name, cost in costs.items()), reverse=True
    ):
        soonest = busy_until.index(min(busy_until))
        busy_until[soonest] += seconds
    return max(busy_until)


@dataclass(frozen=True, slots=True)
class Alternatives:
    """What the same jobs would take in different ways. One model per worker is None where the data may not move."""

    motet: Replay
    order: Order
    one_after_another_seconds: float
    no_overlap_seconds: float
    side_by_side_seconds: float
    one_model_per_worker_seconds: float | None = None


def compare(
    costs: Mapping[str, Cost],
    turns: Mapping[str, int],
    *,
    num_workers: int,
    order: Order | None = None,
    data_everywhere: bool = False,
    assumptions: Assumptions = TYPICAL,
    max_turns: int = 5000,
) -> Alternatives:
    """Return how long the jobs take under Motet, by this order or the best one, and in other ways.

    Of more than ``max_turns`` in all, about so many are replayed, and the time is taken to go on in proportion.
    """
    steady = replace(assumptions, jitter=0.0)
    order = order or best_order(costs, turns, assumptions=steady)
    few = fewer_turns(turns, max_turns)
    longer = bound_seconds(costs, turns, steady) / (bound_seconds(costs, few, steady) or 1.0)
    motet = replay(order, costs, few, num_workers=num_workers, assumptions=steady, keep_spans=False)
    return Alternatives(
        motet=_stretched(motet, longer),
        order=order,
        one_after_another_seconds=one_after_another_seconds(costs, turns, steady),
        no_overlap_seconds=no_overlap_seconds(costs, turns),
        side_by_side_seconds=replay_side_by_side(costs, few, assumptions=steady).total_seconds * longer,
        one_model_per_worker_seconds=one_model_per_worker_seconds(costs, turns, num_workers)
        if data_everywhere
        else None,
    )


def _stretched(replayed: Replay, factor: float) -> Replay:
    """Return a replay of so many times the length."""
    return replace(
        replayed,
        total_seconds=replayed.total_seconds * factor,
        finish_seconds={name: seconds * factor for name, seconds in replayed.finish_seconds.items()},
        compute_idle_seconds=replayed.compute_idle_seconds * factor,
        network_idle_seconds=replayed.network_idle_seconds * factor,
        hidden_seconds=replayed.hidden_seconds * factor,
        exposed_seconds=replayed.exposed_seconds * factor,
        state_wait_seconds=replayed.state_wait_seconds * factor,
        bound_seconds=replayed.bound_seconds * factor,
    )


def advice(alternatives: Alternatives, costs: Mapping[str, Cost], turns: Mapping[str, int]) -> str:
    """Return in one sentence what to do, honestly."""
    motet = alternatives.motet.total_seconds
    alone = alternatives.one_after_another_seconds
    everywhere = alternatives.one_model_per_worker_seconds
    side = alternatives.side_by_side_seconds
    if not alone:
        return "Motet will not help here: the jobs cost nothing."
    if len(costs) < 2:
        return f"Motet will not help here: it needs two jobs at least, and there is {len(costs)}."
    if everywhere is not None and everywhere <= min(motet, alone, side):
        return (
            f"Train one model per worker: without synchronization that takes {_time(everywhere)}, "
            f"with Motet {_time(motet)}."
        )
    if alone >= WORTH_IT * motet:
        return _praise(motet, alone, side)
    if side * WORTH_IT <= min(motet, alone):
        return f"Train the jobs side by side: that takes {_time(side)}, with Motet {_time(motet)}."
    compute = sum(turns[name] * cost.compute_seconds for name, cost in costs.items())
    network = sum(turns[name] * cost.sync_seconds for name, cost in costs.items())
    return f"Motet will not help here: {_obstacle(compute, network, alone)}."


def _praise(motet: float, alone: float, side: float) -> str:
    gain = f"{_time(motet)}, {alone / motet:.2f} times as fast as one run after another"
    if side < motet:
        return (
            f"Use Motet: it takes {gain} ({_time(alone)}); side by side might take {_time(side)} at best, with each "
            "job's process in memory and no two of them in each other's way."
        )
    return f"Use Motet: it takes {gain} ({_time(alone)}), {side / motet:.2f} times as fast as side by side."


def _obstacle(compute: float, network: float, alone: float) -> str:
    """Return why training several jobs at once gains little over one run after another."""
    if compute >= network and compute >= 0.75 * alone:
        return f"compute takes {100 * compute / alone:.0f} % already"
    if network >= 0.75 * alone:
        busy = f"the network is busy for {100 * network / alone:.0f} % of the time already"
        return f"{busy}; send fewer bytes, or synchronize less often"
    return "one job takes most of the time, and the others are too short to fill its gaps"


def _time(seconds: float) -> str:
    """Return a duration with two or three digits that mean something."""
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.3g} s"
