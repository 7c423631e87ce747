"""A run begins with what its jobs' turns cost when they last ran, and finds out whether they still do."""

from __future__ import annotations

from tests.unit.schedule.test_replanner import UNEQUAL, Gang, agree_until_told

from motet.schedule.costs import Cost
from motet.schedule.order import Order, round_robin
from motet.schedule.replanner import TURNS_SKIPPED, Replanner


def test_costs_of_an_earlier_run_make_the_first_order_and_are_put_right() -> None:
    gang = Gang(2, None, ["embedding", "conv"])
    for worker in gang.workers:
        worker.know({"embedding": UNEQUAL["conv"], "conv": UNEQUAL["embedding"]}, gang.expected)
    wrong = gang.workers[0].order.weights
    assert wrong["embedding"] == 10 * wrong["conv"]
    assert not gang.first_known()
    gang.turns(UNEQUAL)
    change = agree_until_told(gang)
    assert change is not None
    assert change.order.weights["conv"] == 10 * change.order.weights["embedding"]


def test_costs_that_are_known_before_are_followed_from_the_first_turn() -> None:
    known, measured = Gang(1, None, ["embedding", "conv"]), Gang(1, None, ["embedding", "conv"])
    known.workers[0].know(UNEQUAL, known.expected)
    measured.turns(UNEQUAL)
    change = measured.agree()
    assert change is not None
    assert known.workers[0].order.weights == change.order.weights
    given = Replanner(Order(("embedding", "conv")), ["embedding", "conv"])
    given.know(UNEQUAL, dict.fromkeys(UNEQUAL))
    assert given.order == Order(("embedding", "conv"))


def test_costs_of_an_earlier_run_count_for_the_jobs_that_are_left_of_it() -> None:
    planning = Replanner(None, ["ended", "embedding", "conv"])
    planning.know(UNEQUAL, {"embedding": 10, "conv": 1000})
    assert planning.order.weights["conv"] > 50
    assert set(planning.order.names) == set(UNEQUAL)
    assert planning.known == UNEQUAL


def test_the_profile_is_still_taken_where_one_jobs_costs_are_not_known() -> None:
    gang = Gang(2, None, ["embedding", "conv", "new"])
    for worker in gang.workers:
        worker.know(UNEQUAL, gang.expected)
    assert gang.workers[0].order == round_robin(["embedding", "conv", "new"])
    gang.turns({**UNEQUAL, "new": Cost(0.01, 0.01)}, TURNS_SKIPPED + 1)
    assert gang.first_known()
    assert gang.agree() is not None
