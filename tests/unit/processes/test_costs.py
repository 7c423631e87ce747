"""The order follows from what all workers measured: the slowest computing, the shortest travel."""

from __future__ import annotations

from collections.abc import Mapping

from motet.processes.costs import Costing
from motet.processes.messages import ProgressReport
from motet.schedule.costs import Cost
from motet.schedule.order import Order
from motet.schedule.replay import best_order

Figures = dict[str, tuple[float, float, int]]
CHEAP_AND_DEAR: Figures = {"a": (1.0, 10.0, 100), "b": (1.0, 0.1, 10)}
TURNS = {"a": 10, "b": 10}
OPEN: Mapping[str, int | None] = {"a": None, "b": None}


def costing(given: Order | None = None, names: tuple[str, ...] = ("a", "b")) -> Costing:
    return Costing(given, names)


def receive(costs: Costing, worker: int, figures: Figures) -> None:
    compute, sync, num_bytes = ({name: each[index] for name, each in figures.items()} for index in range(3))
    costs.receive(worker, ProgressReport(compute, sync, num_bytes, {}, {}))  # type: ignore[arg-type]


def receive_all(costs: Costing, *reported: Figures) -> None:
    for worker, figures in enumerate(reported):
        receive(costs, worker, figures)


def test_costs_of_an_earlier_run_make_the_first_order_and_are_put_right_by_the_first_reports() -> None:
    costs = Costing(None, ("a",), {"a": Cost(1.0, 10.0), "b": Cost(1.0, 0.1), "c": Cost(0.0, 0.0)})
    costs.joined("a", ["a"])
    costs.begin({"a": 0}, {"a": None})
    assert costs.order == Order(("a",))
    costs.joined("b", ["a", "b"])
    costs.begin({"a": 0, "b": 0}, OPEN)
    assert costs.order.turns.count("b") == 10 * costs.order.turns.count("a")
    receive_all(costs, {"a": (1.0, 0.1, 10), "b": (1.0, 10.0, 100)})
    change = costs.change(TURNS, OPEN, 1)
    assert change is not None
    assert change.order.turns.count("a") == 10 * change.order.turns.count("b")
    costs.joined("c", ["a", "b", "c"])
    costs.begin({"a": 9, "b": 9, "c": 0}, {**OPEN, "c": None})
    assert costs.order.turns.count("a") > costs.order.turns.count("b"), "what this run has measured counts"
    costs.joined("d", ["a", "b", "d"])
    costs.begin({"a": 9, "b": 9, "d": 0}, {**OPEN, "d": None})
    assert costs.order == Order(("a", "b", "d"))


def test_how_long_jobs_are_counts_where_costs_are_known_before() -> None:
    names = "abcd"
    turns, expected = dict.fromkeys(names, 0), {"a": 300, "b": 100, "c": 100, "d": 100}
    known, measured = Costing(None, names, dict.fromkeys(names, Cost(1.0, 1.0))), Costing(None, names)
    known.begin(turns, expected)
    receive_all(measured, dict.fromkeys(names, (1.0, 1.0, 0)))
    change = measured.change(turns, expected, 1)
    assert change is not None
    assert known.order.weights == change.order.weights == {"a": 3, "b": 1, "c": 1, "d": 1}


def test_costs_of_all_workers_make_an_order() -> None:
    costs = costing()
    assert costs.order.turns == ("a", "b")
    receive_all(costs, CHEAP_AND_DEAR)
    assert costs.change(TURNS, OPEN, 2) is None  # worker 1 has reported nothing
    receive(costs, 1, {"a": CHEAP_AND_DEAR["a"]})
    assert costs.change(TURNS, OPEN, 2) is None  # and now half of it
    receive(costs, 1, CHEAP_AND_DEAR)
    change = costs.change(TURNS, OPEN, 2)
    assert change is not None
    assert change.order.weights["b"] > change.order.weights["a"]
    assert costs.order == change.order
    assert "known" in change.reason
    assert costs.change(TURNS, OPEN, 2) is None  # nothing has changed


def test_the_slowest_workers_computing_counts_and_the_shortest_sync() -> None:
    """A worker that begins early waits longer for the same gradients."""
    costs, whole = costing(), costing()
    receive_all(costs, {"a": (1.0, 10.0, 100), "b": (0.2, 0.1, 10)}, {"a": (0.5, 14.0, 100), "b": (1.0, 9.0, 10)})
    receive_all(whole, CHEAP_AND_DEAR, CHEAP_AND_DEAR)
    one, other = costs.change(TURNS, OPEN, 2), whole.change(TURNS, OPEN, 2)
    assert one is not None
    assert other is not None
    assert one.order == other.order


def test_an_order_that_was_given_is_kept_to() -> None:
    given = Order(("a", "b", "a"))
    costs = costing(given)
    receive_all(costs, CHEAP_AND_DEAR)
    assert costs.change(TURNS, OPEN, 1) is None
    assert costs.joined("a", ["a"]) is None
    assert costs.order == given


def test_one_drift_is_noise_two_are_a_change() -> None:
    costs = costing()
    receive_all(costs, CHEAP_AND_DEAR)
    assert costs.change(TURNS, OPEN, 1) is not None
    swapped = {"a": CHEAP_AND_DEAR["b"], "b": CHEAP_AND_DEAR["a"]}
    receive_all(costs, swapped)
    assert costs.change(TURNS, OPEN, 1) is None
    receive_all(costs, CHEAP_AND_DEAR)  # it was noise
    assert costs.change(TURNS, OPEN, 1) is None
    receive_all(costs, swapped)
    assert costs.change(TURNS, OPEN, 1) is None
    change = costs.change(TURNS, OPEN, 1)
    assert change is not None
    assert "changed" in change.reason
    assert change.order.weights["a"] > change.order.weights["b"]


def test_a_job_that_joins_gets_its_turns_before_its_costs_are_known() -> None:
    costs = costing()
    receive_all(costs, CHEAP_AND_DEAR)
    assert costs.change(TURNS, OPEN, 1) is not None
    change = costs.joined("c", ["a", "b", "c"])
    assert change is not None
    assert change.order.turns == ("a", "b", "c")
    three = {**TURNS, "c": 0}
    assert costs.change(three, {**OPEN, "c": None}, 1) is None
    receive_all(costs, {**CHEAP_AND_DEAR, "c": (1.0, 10.0, 100)})
    known = costs.change(three, {**OPEN, "c": None}, 1)
    assert known is not None
    assert set(known.order.names) == {"a", "b", "c"}


def test_who_has_ended_counts_no_more() -> None:
    costs = costing(names=("a", "b", "c"))
    receive_all(costs, {**CHEAP_AND_DEAR, "c": (1.0, 1.0, 10)})
    assert costs.change({**TURNS, "c": 3}, {**OPEN, "c": None}, 1) is not None
    costs.ended("c")
    change = costs.change(TURNS, OPEN, 1)
    assert change is not None
    assert set(change.order.names) == {"a", "b"}
    assert change.reason == "job 'c' ended"
    costs.ended("a")
    assert costs.change({"b": 12}, {"b": None}, 1) is None  # one job needs no order


def test_the_order_is_the_best_that_a_plan_would_find() -> None:
    costs = costing()
    receive_all(costs, CHEAP_AND_DEAR)
    change = costs.change(TURNS, {"a": 100, "b": 1000}, 1)
    assert change is not None
    known = {name: Cost(*figures) for name, figures in CHEAP_AND_DEAR.items()}
    assert change.order == best_order(known, {"a": 90.0, "b": 990.0}, current=Order(("a", "b")))
