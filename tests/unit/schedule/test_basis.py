"""A plan for other workers or another link says what it rests on."""

from __future__ import annotations

import random
import statistics

import pytest

from motet.schedule.alternatives import LinkSpec
from motet.schedule.basis import SLOWER_RING, VALIDATED_WORKERS, Basis
from motet.schedule.costs import Cost
from motet.schedule.plan import Profile, make_plan, plan_text

COSTS = {"a": Cost(0.1, 0.1, 10_000_000), "b": Cost(0.2, 0.05, 5_000_000)}
PROFILE = Profile(COSTS, {"a": 100, "b": 50}, 2, compute_spread=0.1)


@pytest.mark.parametrize("num_workers", [3, 16, 256])
def test_the_slowest_worker_is_as_slow_as_drawn_numbers_say(num_workers: int) -> None:
    chance = random.Random(1)
    drawn = [
        statistics.fmean(max(chance.gauss(1, 0.1) for _ in range(number)) for _ in range(3000))
        for number in (2, num_workers)
    ]
    assert Basis(2, 1e9, 0.0, True, 0.1).slowest(num_workers) == pytest.approx(drawn[1] - drawn[0] + 1, abs=0.01)


def test_fewer_workers_or_an_unknown_spread_slow_nothing_down() -> None:
    assert Basis(4, 1e9, 0.0, True, 0.1).slowest(2) == 1
    assert Basis(2, 1e9, 0.0, True, None).slowest(64) == 1


def test_a_plan_on_another_link_says_what_it_rests_on_and_what_it_would_take_cautiously() -> None:
    plan = make_plan(PROFILE.elsewhere(LinkSpec(1.25e9, 5e-5), 64))
    text = plan_text(plan)
    assert "rests on computing as measured on 2 workers" in text
    assert "10 Gbit/s and 50 us a message, as given" in text
    assert f"all-reduces {SLOWER_RING:.0%} slower" in text
    assert "the slowest of 64 workers 17% slower (turns vary by 10%)" in text
    assert f"up to {VALIDATED_WORKERS} workers only" in text
    assert plan.cautious_seconds == pytest.approx(plan.alternatives.motet.total_seconds * 1.175, rel=0.02)
    assert plan.to_json()["basis"]["measured_workers"] == 2
    assert plan.to_json()["cautious_seconds"] == plan.cautious_seconds


def test_a_link_that_was_reckoned_from_what_was_measured_has_no_latency_and_says_so() -> None:
    text = plan_text(make_plan(PROFILE.elsewhere(None, 4)))
    assert "800 Mbit/s, as the measured ones come to, with no latency" in text
    assert "workers only" not in text


def test_a_plan_of_what_was_measured_rests_on_nothing_else() -> None:
    plan = make_plan(PROFILE)
    assert plan.cautious_seconds is None
    assert plan.to_json()["basis"] is None
    assert "rests on" not in plan_text(plan)


def test_a_plan_that_was_saved_without_a_spread_can_be_asked() -> None:
    saved = PROFILE.to_json()
    del saved["compute_spread"]
    plan = make_plan(Profile.from_json(saved).elsewhere(None, 8))
    assert "how much turns vary was not measured" in plan_text(plan)
    assert Profile.from_json(PROFILE.to_json()).compute_spread == 0.1


def test_what_a_saved_plan_rests_on_is_kept_where_it_is_asked_again() -> None:
    saved = make_plan(PROFILE.elsewhere(LinkSpec(1.25e9, 5e-5), 64)).to_json()
    again = Profile.from_json(saved)
    assert "rests on computing as measured on 2 workers" in plan_text(make_plan(again))
    text = plan_text(make_plan(again.elsewhere(None, 128)))
    assert "rests on computing as measured on 2 workers" in text
    assert "10 Gbit/s and 50 us a message, as given" in text
    direct = PROFILE.elsewhere(LinkSpec(1.25e9, 5e-5), 128)
    assert again.elsewhere(None, 128).costs == direct.costs


def test_a_damaged_basis_is_none() -> None:
    saved = make_plan(PROFILE.elsewhere(None, 8)).to_json()
    for wrong in ({"compute_spread": float("nan")}, {"measured_workers": 0}, {"bytes_per_second": -1.0}, {"more": 1}):
        with pytest.raises((TypeError, ValueError)):
            Profile.from_json({**saved, "basis": {**saved["basis"], **wrong}})
