"""Orders that differ between workers are found to deadlock or to mismatch, and where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.errors import DivergenceError
from motet.schedule.costs import Cost
from motet.schedule.order import Order
from motet.schedule.replay import Assumptions, replay

COSTS = dict.fromkeys("ab", Cost(1, 1))
TURNS = dict.fromkeys("ab", 10)
ONE_LANE, SHARED = Assumptions(lanes="one"), Assumptions(lanes="shared")


def orders(*rounds: str) -> list[Order]:
    return [Order(tuple(turns)) for turns in rounds]


def test_orders_that_differ_deadlock_where_each_worker_waits_for_the_other() -> None:
    with pytest.raises(DivergenceError) as caught:
        replay(orders("aab", "abb"), COSTS, TURNS, assumptions=SHARED)
    assert str(caught.value) == (
        "The workers' orders lead to a deadlock: "
        "worker 0 waits for the gradients of 'a', turn 3, which worker 1 would compute later; "
        "worker 1 waits for the gradients of 'b', turn 2, which worker 0 would compute later; "
        "give every worker the same order."
    )


def test_a_job_that_a_worker_never_takes_stops_the_others() -> None:
    message = "worker 0 waits for the gradients of 'b', turn 1, which worker 2 would compute later"
    with pytest.raises(DivergenceError, match=message):
        replay(orders("ab", "ab", "a"), COSTS, TURNS, assumptions=SHARED)


def test_on_one_lane_a_swap_is_a_mismatch() -> None:
    message = "worker 0 synchronizes 'a', turn 1, where worker 1 synchronizes 'b', turn 1"
    with pytest.raises(DivergenceError, match=message):
        replay(orders("ab", "ba"), COSTS, TURNS, assumptions=ONE_LANE)


def test_on_lanes_of_their_own_swapped_turns_only_cost_time() -> None:
    same = replay(orders("ab", "ab"), COSTS, TURNS, assumptions=SHARED)
    swapped = replay(orders("ab", "ba"), COSTS, TURNS, assumptions=SHARED)
    assert swapped.total_seconds > same.total_seconds
    assert {span.worker for span in swapped.spans} == {None, 0, 1}


def test_gradients_that_queue_delay_the_next_job_less_than_if_they_shared_the_link() -> None:
    """A sends for long, and what B sends meanwhile delays it by as much if both share the link."""
    costs, turns = {"a": Cost(0.3, 0.7), "b": Cost(0.5, 0.2)}, dict.fromkeys("ab", 50)
    at_end = Assumptions(num_buckets=1)
    queued = replay(orders("ab"), costs, turns, num_workers=2, assumptions=at_end)
    shared = replay(orders("ab"), costs, turns, num_workers=2, assumptions=replace(at_end, lanes="shared"))
    assert queued.total_seconds == pytest.approx(50 * 1.0, rel=0.02)  # a's own compute and sync
    assert shared.total_seconds == pytest.approx(50 * 1.2, rel=0.02)


def test_jobs_that_come_round_far_more_often_pass() -> None:
    costs, turns = {"a": Cost(0.1, 4.0), "b": Cost(0.5, 0.1)}, {"a": 10, "b": 80}
    rare = replay(orders("abbbbbbbb"), costs, turns)
    assert rare.total_seconds < 1.1 * rare.bound_seconds
    assert replay(orders("abbbbbbbb"), costs, turns, assumptions=ONE_LANE).total_seconds > 1.5 * rare.bound_seconds


@settings(deadline=None)
@given(st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=3))
def test_a_replay_always_ends(rounds: list[str]) -> None:
    if not all("a" in turns and "b" in turns for turns in rounds):
        rounds = [turns + "ab" for turns in rounds]
    for lanes in (Assumptions(), SHARED, ONE_LANE):
        try:
            result = replay(orders(*rounds), COSTS, TURNS, assumptions=lanes)
        except DivergenceError:
            assert len(set(rounds)) > 1
        else:
            assert result.total_seconds >= result.bound_seconds - 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        {"forward_fraction": 1.5},
        {"num_buckets": 0},
        {"first_bucket_after": -0.1},
        {"lanes": "two"},
        {"transfer_cpu_fraction": 1.0},
        {"jitter": -1.0},
        {"buckets": {"a": ((0.5, 0.5), (0.4, 0.5))}},
        {"buckets": {"a": ((1.0, -0.5),)}},
    ],
)
def test_assumptions_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Assumptions(**wrong)
