"""A replay agrees with what can be reckoned by hand, and keeps to what no run can beat."""

from __future__ import annotations

import dataclasses
import itertools
import random
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from motet.schedule.costs import Cost
from motet.schedule.order import Order, round_robin
from motet.schedule.replay import (
    SEQUENTIAL,
    TYPICAL,
    Assumptions,
    Replay,
    assumed_turns,
    best_order,
    bound_seconds,
    fewer_turns,
    replay,
    replay_side_by_side,
    solo_turn_seconds,
)
from motet.schedule.weights import determine, johnson

ONE_LANE = Assumptions(num_buckets=1, lanes="one")
# The unequal jobs of the design, section 6: few turns with much to send, many with little.
UNEQUAL = {"embedding": Cost(1, 10), "conv": Cost(1, 0.1)}
UNEQUAL_TURNS = {"embedding": 100, "conv": 1000}

seconds = st.floats(0.0, 10.0, allow_subnormal=False)
costs_of_jobs = st.dictionaries(st.sampled_from("abcd"), st.builds(Cost, seconds, seconds), min_size=1)
assumptions = st.builds(
    Assumptions,
    forward_fraction=st.floats(0, 1),
    num_buckets=st.integers(1, 5),
    first_bucket_after=st.none() | st.floats(0, 1),
    lanes=st.sampled_from(["queued", "shared", "one"]),
    transfer_cpu_fraction=st.floats(0, 0.9),
)


@st.composite
def runs(draw: st.DrawFn) -> tuple[Order, dict[str, Cost], dict[str, int]]:
    costs = draw(costs_of_jobs)
    more = draw(st.lists(st.sampled_from(sorted(costs)), max_size=6))
    order = Order(tuple(draw(st.permutations([*costs, *more]))))
    return order, costs, {name: draw(st.integers(0, 8)) for name in costs}


def reckoned_seconds(order: Order, costs: dict[str, Cost], turns: dict[str, int]) -> float:
    """Reckon a run without events: one lane, one bucket, each step as soon as what it needs is there."""
    left = dict(turns)
    landed = dict.fromkeys(costs, 0.0)
    computed = network = 0.0
    places = itertools.cycle(order.turns)
    live = {name for name in costs if turns[name]}
    while live:
        name = next(places)
        if name not in live:
            continue
        computed = max(computed, landed[name])
        if not left[name]:
            live.remove(name)
            continue
        left[name] -= 1
        computed += costs[name].compute_seconds
        network = landed[name] = max(network, computed) + costs[name].sync_seconds
    return computed


@settings(deadline=None)
@given(runs())
def test_a_replay_on_one_lane_is_what_one_reckons_step_by_step(
    run: tuple[Order, dict[str, Cost], dict[str, int]],
) -> None:
    order, costs, turns = run
    assert replay(order, costs, turns, assumptions=ONE_LANE).total_seconds == pytest.approx(
        reckoned_seconds(order, costs, turns)
    )


@settings(deadline=None)
@given(runs(), assumptions)
def test_no_run_beats_the_bound(run: tuple[Order, dict[str, Cost], dict[str, int]], assumptions: Assumptions) -> None:
    order, costs, turns = run
    result = replay(order, costs, turns, assumptions=assumptions)
    assert result.total_seconds >= result.bound_seconds * (1 - 1e-9) - 1e-9
    assert 0 <= result.efficiency <= 1 + 1e-9
    assert result.total_seconds == max(result.finish_seconds.values())


@settings(deadline=None)
@given(runs(), assumptions)
def test_no_order_is_slower_than_one_run_after_another(
    run: tuple[Order, dict[str, Cost], dict[str, int]], assumptions: Assumptions
) -> None:
    # While a job computes, the network has at least as much to send as when that job is alone: more is hidden.
    order, costs, turns = run
    alone = sum(
        replay(Order((name,)), {name: cost}, {name: turns[name]}, assumptions=assumptions).total_seconds
        for name, cost in costs.items()
    )
    assert replay(order, costs, turns, assumptions=assumptions).total_seconds <= alone * (1 + 1e-9) + 1e-9


@settings(deadline=None)
@given(runs(), assumptions)
def test_all_work_is_accounted_for(
    run: tuple[Order, dict[str, Cost], dict[str, int]], assumptions: Assumptions
) -> None:
    order, costs, turns = run
    result = replay(order, costs, turns, assumptions=assumptions)
    compute = sum(turns[name] * costs[name].compute_seconds for name in costs)
    network = sum(turns[name] * costs[name].sync_seconds for name in costs)
    assert result.hidden_seconds + result.exposed_seconds == pytest.approx(network, abs=1e-6)
    assert result.total_seconds - result.network_idle_seconds == pytest.approx(network, abs=1e-6)
    # Transfers slow down the compute that hides them.
    slowed = compute + assumptions.transfer_cpu_fraction * result.hidden_seconds
    assert result.total_seconds - result.compute_idle_seconds == pytest.approx(slowed, abs=1e-6)


@settings(deadline=None)
@given(runs(), assumptions)
def test_the_spans_are_a_run_that_can_be(
    run: tuple[Order, dict[str, Cost], dict[str, int]], assumptions: Assumptions
) -> None:
    order, costs, turns = run
    spans = replay(order, costs, turns, assumptions=assumptions).spans
    own = [span for span in spans if span.worker == 0]
    for earlier, later in itertools.pairwise(own):
        assert earlier.end <= later.begin + 1e-9
    landed = {(span.job, span.turn): span.end for span in spans if span.what == "sync"}
    computed = {(span.job, span.turn): span for span in own if span.what == "compute"}
    assert set(landed) == set(computed) == {(name, turn + 1) for name in costs for turn in range(turns[name])}
    for (job, turn), span in computed.items():
        assert span.begin >= landed.get((job, turn - 1), 0.0) - 1e-9
        assert landed[job, turn] >= span.end - 1e-9


@settings(deadline=None, max_examples=40)
@given(costs_of_jobs)
def test_with_equal_turns_any_cyclic_order_reaches_the_bound_up_to_its_ends(costs: dict[str, Cost]) -> None:
    turns = dict.fromkeys(costs, 50)
    result = replay(round_robin(list(costs)), costs, turns, assumptions=ONE_LANE)
    ends = 2 * sum(cost.solo_seconds for cost in costs.values())
    assert result.total_seconds <= result.bound_seconds + ends + 1e-6


def test_lanes_share_the_network_equally() -> None:
    costs = {"a": Cost(1, 4), "b": Cost(1, 1)}
    shared = dataclasses.replace(SEQUENTIAL, lanes="shared")
    result = replay(round_robin("ab"), costs, {"a": 1, "b": 1}, assumptions=shared)
    # From 1 to 2 a sends alone; then both at half speed until b has sent its 1 s, at 4; then a the 2 s that are left.
    landed = {span.job: span.end for span in result.spans if span.what == "sync"}
    assert landed == {"a": 6.0, "b": 4.0}
    # a comes round first: the worker waits for it, and b, though landed, ends after that.
    assert result.finish_seconds == {"a": 6.0, "b": 6.0}
    one = replay(round_robin("ab"), costs, {"a": 1, "b": 1}, assumptions=ONE_LANE)
    assert {span.job: span.end for span in one.spans if span.what == "sync"} == {"a": 5.0, "b": 6.0}


def test_buckets_leave_during_the_backward() -> None:
    cost = Cost(3, 4)  # forward until 1; buckets of 1 s at 1.5, 2, 2.5 and 3
    result = replay(round_robin("a"), {"a": cost}, {"a": 1})
    assert [(span.what, span.begin, span.end) for span in result.spans] == [
        ("compute", 0.0, 3.0),
        ("sync", 1.5, 5.5),
        ("wait", 3.0, 5.5),
    ]
    assert result.hidden_seconds == 1.5
    assert result.exposed_seconds == 2.5
    assert solo_turn_seconds(cost, TYPICAL) == 5.5
    assert solo_turn_seconds(cost) == 7


def test_buckets_of_a_known_job_leave_as_they_were_seen_to() -> None:
    seen = Assumptions(buckets={"a": ((0.5, 0.75), (0.75, 0.25))})
    result = replay(round_robin("a"), {"a": Cost(4, 4)}, {"a": 1}, assumptions=seen)
    assert [(span.what, span.begin, span.end) for span in result.spans] == [
        ("compute", 0.0, 4.0),
        ("sync", 2.0, 6.0),
        ("wait", 4.0, 6.0),
    ]


def test_a_transfer_takes_its_part_of_the_compute_unit() -> None:
    costs = {"a": Cost(1, 2), "b": Cost(1, 0)}
    result = replay(
        round_robin("ab"), costs, {"a": 1, "b": 1}, assumptions=Assumptions(num_buckets=1, transfer_cpu_fraction=0.5)
    )
    computed = {span.job: (span.begin, span.end) for span in result.spans if span.what == "compute"}
    assert computed == {"a": (0.0, 1.0), "b": (1.0, 3.0)}


def test_the_designs_unequal_jobs() -> None:
    determined = determine(UNEQUAL, UNEQUAL_TURNS)

    def total(order: Order, assumptions: Assumptions) -> float:
        return replay(order, UNEQUAL, UNEQUAL_TURNS, assumptions=assumptions).total_seconds

    assert bound_seconds(UNEQUAL, UNEQUAL_TURNS) == 1100
    assert total(round_robin(["embedding", "conv"]), ONE_LANE) == pytest.approx(2090, abs=5)
    assert total(determined, TYPICAL) == pytest.approx(1100, rel=0.05)
    # On one lane the small syncs stand behind the large ones, and nothing is gained.
    assert total(determined, ONE_LANE) == pytest.approx(2090, abs=5)


@settings(deadline=None, max_examples=40)
@given(runs(), assumptions)
def test_workers_that_do_the_same_are_computed_once(
    run: tuple[Order, dict[str, Cost], dict[str, int]], assumptions: Assumptions
) -> None:
    order, costs, turns = run
    one = replay(order, costs, turns, num_workers=1, assumptions=assumptions)
    assert replay(order, costs, turns, num_workers=1024, assumptions=assumptions) == one
    # With a jitter too small to see, each worker is computed for itself.
    three = replay(order, costs, turns, num_workers=3, assumptions=dataclasses.replace(assumptions, jitter=1e-12))
    assert three.total_seconds == pytest.approx(one.total_seconds, abs=1e-6)
    assert three.hidden_seconds == pytest.approx(one.hidden_seconds, abs=1e-6)


def test_jitter_costs_time_and_comes_from_the_seed() -> None:
    costs, turns = {"a": Cost(1, 0.2), "b": Cost(1, 0.2)}, {"a": 50, "b": 50}

    def jittery(num_workers: int, seed: int) -> Replay:
        noisy = Assumptions(jitter=0.2, seed=seed)
        return replay(round_robin("ab"), costs, turns, num_workers=num_workers, assumptions=noisy)

    assert jittery(4, seed=1) == jittery(4, seed=1)
    assert jittery(4, seed=1).total_seconds != jittery(4, seed=2).total_seconds
    steady = replay(round_robin("ab"), costs, turns, num_workers=8).total_seconds
    assert steady * 1.02 < jittery(8, seed=1).total_seconds < steady * 1.5


def test_a_thousand_workers_and_sixteen_jobs_take_less_than_a_second() -> None:
    number = random.Random(0)
    costs = {f"job{i}": Cost(number.random(), number.random()) for i in range(16)}
    begin = time.process_time()
    result = replay(round_robin(list(costs)), costs, dict.fromkeys(costs, 100), num_workers=1024)
    assert time.process_time() - begin < 1
    assert len(result.spans) >= 2 * 1600
    assert result.efficiency > 0.9


def test_processes_side_by_side_compute_and_send_at_the_same_times() -> None:
    costs, turns = dict.fromkeys("ab", Cost(1, 1)), dict.fromkeys("ab", 10)
    # Equal processes stay in step: both compute for 2 s, then both send for 2 s. In turns, one hides the other.
    assert replay_side_by_side(costs, turns, assumptions=SEQUENTIAL).total_seconds == pytest.approx(40)
    assert replay(round_robin("ab"), costs, turns, assumptions=ONE_LANE).total_seconds == pytest.approx(21)


@settings(deadline=None)
@given(st.builds(Cost, seconds, seconds), st.integers(1, 5), assumptions)
def test_one_process_alone_is_a_replay_of_one_job(cost: Cost, turns: int, assumptions: Assumptions) -> None:
    alone = replay(round_robin("a"), {"a": cost}, {"a": turns}, assumptions=assumptions)
    assert replay_side_by_side({"a": cost}, {"a": turns}, assumptions=assumptions, keep_spans=True) == alone


@settings(deadline=None)
@given(runs(), assumptions)
def test_processes_side_by_side_do_not_beat_the_bound_either(
    run: tuple[Order, dict[str, Cost], dict[str, int]], assumptions: Assumptions
) -> None:
    _, costs, turns = run
    assert replay_side_by_side(costs, turns, assumptions=assumptions).efficiency <= 1 + 1e-9


@settings(deadline=None, max_examples=40)
@given(costs_of_jobs, st.data(), assumptions)
def test_the_best_order_is_never_worse_than_a_round_robin(
    costs: dict[str, Cost], data: st.DataObject, assumptions: Assumptions
) -> None:
    remaining = {name: data.draw(st.none() | st.integers(1, 20)) for name in costs}
    turns = assumed_turns(costs, remaining)
    limit = max(sum(turns.values()), 1)  # nothing is scaled down: what is compared is what is asked for here
    assume(limit <= 300)
    current = Order(tuple(data.draw(st.permutations(sorted(costs) * 2))))

    def total(order: Order) -> float:
        return replay(order, costs, turns, assumptions=assumptions).total_seconds

    best = best_order(costs, remaining, current=current, assumptions=assumptions, max_turns=limit)
    assert set(best.names) == set(costs)
    assert total(best) <= min(total(round_robin(sorted(costs))), total(round_robin(johnson(costs))), total(current))
    backwards = dict(reversed(costs.items()))
    assert best_order(backwards, remaining, current=current, assumptions=assumptions, max_turns=limit) == best


def test_the_current_order_stays_unless_another_is_faster() -> None:
    costs = dict.fromkeys("abc", Cost(1, 1))
    current = round_robin("cba")
    assert best_order(costs, {}, current=current) == current
    assert best_order(costs, {}, current=round_robin("ab")) == round_robin("abc")  # c would never have a turn
    assert best_order(UNEQUAL, UNEQUAL_TURNS, current=round_robin(list(UNEQUAL))) == determine(UNEQUAL, UNEQUAL_TURNS)


def test_as_many_turns_as_are_replayed_choose_orders_as_good_as_many_more_do() -> None:
    chance = random.Random(1)
    slower = []
    for number in range(16):
        names = [f"job{i}" for i in range(chance.choice((2, 3, 4, 8, 12, 16)))]
        costs = {name: Cost(10 ** chance.uniform(-2.5, 0), 10 ** chance.uniform(-2.5, 0)) for name in names}
        remaining = {name: chance.randint(20, 400) if number % 2 else None for name in names}
        turns = fewer_turns(assumed_turns(costs, remaining), 1500)
        chosen = [best_order(costs, remaining, max_turns=limit) for limit in (350, 1000)]
        totals = [replay(order, costs, turns, num_workers=1, keep_spans=False).total_seconds for order in chosen]
        slower.append(totals[0] / totals[1])
    assert max(slower) < 1.01
    assert sum(slower) / len(slower) < 1.001


def test_turns_that_are_not_known_are_assumed_by_solo_time() -> None:
    costs = {"slow": Cost(1, 3), "quick": Cost(1, 0), "free": Cost(0, 0)}
    assert assumed_turns(costs, {"slow": 10}) == {"slow": 10, "quick": 40, "free": 640}
    assert assumed_turns(costs, {}) == {"slow": 100, "quick": 400, "free": 6400}  # capped
    assert assumed_turns(costs, {"slow": 1, "quick": 2, "free": 3}) == {"slow": 1, "quick": 2, "free": 3}


def test_fewer_turns_keep_their_proportions() -> None:
    assert fewer_turns({"a": 300, "b": 100}, 400) == {"a": 300, "b": 100}
    assert fewer_turns({"a": 300, "b": 100, "c": 1, "d": 0}, 40) == {"a": 30, "b": 10, "c": 1, "d": 0}


def test_a_run_of_no_turns_takes_no_time() -> None:
    result = replay(round_robin("ab"), dict.fromkeys("ab", Cost(1, 1)), {"a": 0, "b": 0})
    assert (result.total_seconds, result.efficiency, result.spans) == (0.0, 1.0, ())
