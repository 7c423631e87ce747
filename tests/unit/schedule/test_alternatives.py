"""What the same costs come to elsewhere and otherwise, and an honest sentence about it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.errors import UsageError
from motet.schedule.alternatives import (
    LinkSpec,
    advice,
    compare,
    no_overlap_seconds,
    on_link,
    one_after_another_seconds,
    one_model_per_worker_seconds,
    parse_link,
)
from motet.schedule.costs import Cost
from motet.schedule.order import Order
from motet.schedule.replay import SEQUENTIAL, TYPICAL, bound_seconds, replay

COSTS = {"a": Cost(3, 4, 1000), "b": Cost(3, 1, 250)}
TURNS = {"a": 10, "b": 20}

seconds = st.floats(0.0, 10.0, allow_subnormal=False)
costs_of_jobs = st.dictionaries(st.sampled_from("abcd"), st.builds(Cost, seconds, seconds), min_size=1)


def advised(costs: dict[str, Cost], turns: dict[str, int], data_everywhere: bool = False) -> str:
    return advice(compare(costs, turns, num_workers=2, data_everywhere=data_everywhere), costs, turns)


def test_a_ring_sends_all_but_one_part_twice() -> None:
    link = LinkSpec(bytes_per_second=100.0, latency_seconds=0.5)
    assert link.all_reduce_seconds(1000, 1) == 0.0
    assert link.all_reduce_seconds(1000, 2) == 10.0 + 2 * 0.5
    assert link.all_reduce_seconds(1000, 4) == 15.0 + 6 * 0.5
    assert link.all_reduce_seconds(1000, 4, num_collectives=3) == 15.0 + 18 * 0.5


def test_costs_move_to_another_link() -> None:
    moved = on_link(COSTS, LinkSpec(500.0), num_workers=4, assumptions=SEQUENTIAL)
    assert moved == {"a": Cost(3, 3.0, 1000), "b": Cost(3, 0.75, 250)}
    late = on_link(COSTS, LinkSpec(500.0, latency_seconds=0.125), num_workers=2)  # four buckets, two steps each
    assert late["b"].sync_seconds == 0.5 + 1.0


@pytest.mark.parametrize(
    ("text", "link"),
    [
        ("8bit", LinkSpec(1.0)),
        ("300mbit", LinkSpec(37.5e6)),
        ("10gbit", LinkSpec(1.25e9)),
        ("1.5 Gbit / 50us", LinkSpec(187.5e6, 50e-6)),
        ("100kbit/2ms", LinkSpec(12.5e3, 2e-3)),
    ],
)
def test_links_are_read(text: str, link: LinkSpec) -> None:
    assert parse_link(text).bytes_per_second == pytest.approx(link.bytes_per_second)
    assert parse_link(text).latency_seconds == pytest.approx(link.latency_seconds)


@pytest.mark.parametrize("text", ["", "fast", "10", "10gb", "0gbit", "1.2.3gbit", "10gbit/", "-1gbit"])
def test_a_link_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        parse_link(text)


@pytest.mark.parametrize("wrong", [(0.0, 0.0), (-1.0, 0.0), (1.0, -1.0), (float("nan"), 0.0)])
def test_a_link_needs_a_rate(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="rate above 0"):
        LinkSpec(*wrong)


def test_runs_one_after_another() -> None:
    # a: buckets of 1 s leave at 1.5, 2, 2.5 and 3, and land at 5.5; b: buckets of 0.25 s, the last one from 3 to 3.25
    assert one_after_another_seconds(COSTS, TURNS) == pytest.approx(10 * 5.5 + 20 * 3.25)
    assert no_overlap_seconds(COSTS, TURNS) == pytest.approx(10 * 7 + 20 * 4)
    assert one_after_another_seconds(COSTS, {"a": 0, "b": 0}) == 0


@settings(deadline=None)
@given(costs_of_jobs, st.integers(1, 6))
def test_runs_one_after_another_are_replays_added_up(costs: dict[str, Cost], turns: int) -> None:
    added = sum(replay(Order((name,)), {name: cost}, {name: turns}).total_seconds for name, cost in costs.items())
    assert one_after_another_seconds(costs, dict.fromkeys(costs, turns)) == pytest.approx(added)


def test_one_model_per_worker_computes_all_samples_there() -> None:
    costs = {"a": Cost(1, 9), "b": Cost(1, 9), "c": Cost(1, 9)}
    # On 2 workers a turn takes 2 s on one worker: 20, 10 and 10 s, of which two go to the same worker.
    assert one_model_per_worker_seconds(costs, {"a": 10, "b": 5, "c": 5}, 2) == 20
    assert one_model_per_worker_seconds(costs, {"a": 10, "b": 5, "c": 5}, 3) == 30


@settings(deadline=None, max_examples=40)
@given(costs_of_jobs)
def test_the_ways_compare_as_they_must(costs: dict[str, Cost]) -> None:
    turns = dict.fromkeys(costs, 10)
    ways = compare(costs, turns, num_workers=2, data_everywhere=True)
    assert ways.one_after_another_seconds <= ways.no_overlap_seconds + 1e-6
    assert ways.motet.total_seconds <= ways.one_after_another_seconds + 1e-6
    assert ways.one_model_per_worker_seconds is not None
    assert ways.one_model_per_worker_seconds >= sum(10 * cost.compute_seconds for cost in costs.values()) - 1e-6
    assert compare(costs, turns, num_workers=2).one_model_per_worker_seconds is None
    assert advice(ways, costs, turns).endswith(".")


def test_long_runs_are_replayed_in_part() -> None:
    costs, turns = {"a": Cost(1, 2), "b": Cost(2, 0.5)}, {"a": 3_000_000, "b": 5_000_000}
    ways = compare(costs, turns, num_workers=2)
    assert ways.motet.bound_seconds == pytest.approx(bound_seconds(costs, turns, TYPICAL))
    assert 0.97 < ways.motet.efficiency <= 1 + 1e-9
    assert ways.motet.total_seconds * ways.motet.efficiency == pytest.approx(ways.motet.bound_seconds)
    assert ways.side_by_side_seconds < ways.one_after_another_seconds < ways.no_overlap_seconds
    whole, part = (compare(costs, {"a": 300, "b": 500}, num_workers=2, max_turns=limit) for limit in (800, 200))
    assert part.motet.total_seconds == pytest.approx(whole.motet.total_seconds, rel=0.02)
    assert part.side_by_side_seconds == pytest.approx(whole.side_by_side_seconds, rel=0.02)


def test_advice_where_motet_helps() -> None:
    costs = dict.fromkeys("ab", Cost(1, 1))
    assert advised(costs, dict.fromkeys("ab", 10)) == (
        "Use Motet: it takes 20.5 s, 1.46 times as fast as one run after another (30 s), "
        "1.46 times as fast as side by side."
    )


def test_advice_where_compute_is_what_takes_the_time() -> None:
    costs = dict.fromkeys("ab", Cost(1, 0.3))
    assert advised(costs, dict.fromkeys("ab", 10)) == "Motet will not help here: compute takes 93 % already."


def test_advice_where_the_network_is_full() -> None:
    costs = dict.fromkeys("ab", Cost(0.1, 1))
    assert advised(costs, dict.fromkeys("ab", 100)) == (
        "Motet will not help here: the network is busy for 95 % of the time already; send fewer bytes, or synchronize "
        "less often."
    )


def test_advice_where_one_job_is_nearly_all() -> None:
    costs = dict.fromkeys("ab", Cost(1, 1))
    assert advised(costs, {"a": 100, "b": 3}) == (
        "Motet will not help here: one job takes most of the time, and the others are too short to fill its gaps."
    )


def test_advice_where_every_worker_can_have_all_data() -> None:
    costs = dict.fromkeys("ab", Cost(1, 1))
    assert advised(costs, dict.fromkeys("ab", 10), data_everywhere=True) == (
        "Train one model per worker: without synchronization that takes 20 s, with Motet 20.5 s."
    )


def test_advice_for_one_job_and_for_none_that_costs() -> None:
    assert "two jobs at least" in advised({"a": Cost(1, 1)}, {"a": 10})
    assert "cost nothing" in advised(dict.fromkeys("ab", Cost(0, 0)), {"a": 1, "b": 1})
