"""A round that a replay has found by trying."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from motet.schedule.costs import Cost
from motet.schedule.ready_first import ready_first
from motet.schedule.replay import TYPICAL, best_order, replay
from motet.schedule.weights import determine

seconds = st.floats(0.0, 10.0, allow_subnormal=False)
costs_of_jobs = st.dictionaries(st.sampled_from("abcdef"), st.builds(Cost, seconds, seconds), min_size=1)

SIX = {
    "language": Cost(0.09, 0.0405),
    "narrow": Cost(0.08, 0.0243),
    "recommender": Cost(0.03, 0.1134),
    "items": Cost(0.02, 0.0648),
    "images": Cost(0.10, 0.0405),
    "wide": Cost(0.07, 0.0486),
}
SIX_TURNS = {"language": 24, "narrow": 12, "recommender": 36, "items": 12, "images": 24, "wide": 12}


def test_no_job_comes_round_before_its_gradients_do_where_others_are_ready() -> None:
    determined = determine(SIX, SIX_TURNS)
    found = ready_first(SIX, determined, TYPICAL)
    assert found is not None
    assert found.weights == determined.weights
    before, after = (
        replay(order, SIX, SIX_TURNS, num_workers=1, keep_spans=False).efficiency for order in (determined, found)
    )
    assert before < 0.9  # the recommender has two turns in a row, and sends for longer than it computes
    assert after > 0.97
    assert best_order(SIX, SIX_TURNS) == found


@settings(deadline=None, max_examples=60)
@given(costs_of_jobs, st.randoms(use_true_random=False))
def test_a_round_holds_each_job_as_often_as_the_determined_one_on_every_worker(
    costs: dict[str, Cost], shuffler: random.Random
) -> None:
    determined = determine(costs, {})
    found = ready_first(costs, determined, TYPICAL)
    names = list(costs)
    shuffler.shuffle(names)
    assert ready_first({name: costs[name] for name in names}, determined, TYPICAL) == found
    if found is not None:
        assert found.weights == determined.weights


def test_a_round_that_gains_nothing_leaves_the_determined_one() -> None:
    twins = {"left": Cost(0.1, 0.1), "right": Cost(0.1, 0.1)}
    assert best_order(twins, {"left": 100, "right": 100}) == determine(twins, {"left": 100, "right": 100})


def test_a_very_long_round_is_not_tried() -> None:
    costs = {f"job{number}": Cost(1.0, 1.0) for number in range(200)}
    assert ready_first(costs, determine(costs, {}), TYPICAL) is None
