"""Workers that wait for each other in a cycle are found; workers that are merely slow are not."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.workers.deadlock import Position, WaitsFor, describe, find_cycle, find_divergence


def at(worker: int, item: WaitsFor | None = None, **fields: Any) -> Position:
    given = {"epoch": 1, "beat": 2, "job": None, "turn": 0, "phase": "computing", **fields}
    return Position(worker=worker, item=item, **given)


def cycle(*positions: Position, certain: bool = True) -> list[int]:
    return find_cycle({position.worker: position for position in positions}, certain=certain)


def in_step(worker: int, order: Sequence[str], slot: int, waits: bool) -> Position:
    """Return where a worker stands that has followed ``order`` up to a slot, and computes or waits there."""
    launched = Counter(order[number % len(order)] for number in range(slot))
    job = order[slot % len(order)]
    item = WaitsFor("gradients", job, launched[job]) if waits and launched[job] else None
    return at(worker, item, job=job, turn=launched[job] + 1, launched=dict(launched))


@given(
    order=st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
    places=st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=2, max_size=5),
    certain=st.booleans(),
)
def test_workers_that_follow_one_order_contradict_nobody(
    order: list[str], places: list[tuple[int, bool]], certain: bool
) -> None:
    positions = [in_step(worker, order, slot, waits) for worker, (slot, waits) in enumerate(places)]
    assert cycle(*positions, certain=certain) == []


def test_workers_with_swapped_orders_wait_in_a_cycle() -> None:
    one = at(0, WaitsFor("gradients", "a", 1), launched={"a": 1})
    two = at(1, WaitsFor("gradients", "b", 1), launched={"b": 1})
    assert cycle(one, two) == [0, 1]


def test_a_cycle_of_three_and_one_who_waits_for_it() -> None:
    positions = [
        at(0, WaitsFor("gradients", "a", 5), launched={"a": 5, "b": 4, "c": 5}),
        at(1, WaitsFor("gradients", "b", 5), launched={"a": 4, "b": 5, "c": 5}),
        at(2, WaitsFor("gradients", "c", 5), launched={"a": 5, "b": 4, "c": 5}),
        at(3, None, launched={"a": 4}),
    ]
    assert cycle(*positions[:3]) == [0, 1]
    positions[0] = at(0, WaitsFor("gradients", "a", 5), launched={"a": 5, "b": 5, "c": 4})
    positions[2] = at(2, WaitsFor("gradients", "c", 5), launched={"a": 5, "b": 4, "c": 5})
    assert cycle(*positions[:3]) == [0, 1, 2]
    assert cycle(*positions) == [0, 1, 2], "who computes is in no cycle"


def test_a_slow_worker_is_waited_for() -> None:
    waiting = [at(worker, WaitsFor("gradients", "a", 7), launched={"a": 7}) for worker in (0, 1)]
    assert cycle(*waiting, at(2, None, launched={"a": 6})) == []


def test_a_worker_of_which_nothing_is_known_is_waited_for() -> None:
    assert cycle(at(0, WaitsFor("gradients", "a", 7), launched={"a": 7})) == []


def test_a_job_that_ended_on_one_worker() -> None:
    ended = at(
        0, WaitsFor("agreement", "a", 3), launched={"a": 46}, ended={"a": "finished in turn 47"}, num_agreements=3
    )
    waits = at(1, WaitsFor("gradients", "a", 47), launched={"a": 47}, num_agreements=2)
    assert cycle(ended, waits) == [0, 1]
    late = at(1, WaitsFor("gradients", "a", 46), launched={"a": 46}, num_agreements=2)
    assert cycle(ended, late) == [], "it will end there too"


def test_a_collective_in_a_job_that_ended_elsewhere() -> None:
    ended = at(
        0, WaitsFor("agreement", "a", 3), launched={"a": 46}, ended={"a": "finished in turn 47"}, num_agreements=3
    )
    talks = at(1, WaitsFor("collective", "a", 47), job="a", turn=47, launched={"a": 46}, num_agreements=2)
    assert cycle(ended, talks) == [0, 1]


@pytest.mark.parametrize(("launched", "found"), [(2, [0, 1]), (3, []), (4, [])])
def test_a_collective_that_others_have_not_come_to(launched: int, found: list[int]) -> None:
    """Worker 0 is in a collective in turn 4; worker 1 waits for gradients that only come once 0 goes on."""
    talks = at(0, WaitsFor("collective", "a", 4), job="a", turn=4, launched={"a": 3, "b": 3})
    waits = at(1, WaitsFor("gradients", "b", 4), launched={"a": launched, "b": 4})
    assert cycle(talks, waits) == found


def test_a_collective_that_others_have_passed_counts_only_after_a_long_wait() -> None:
    talks = at(0, WaitsFor("collective", "a", 4), job="a", turn=4, launched={"a": 3})
    passed = at(1, WaitsFor("gradients", "a", 4), launched={"a": 4})
    assert cycle(talks, passed) == []
    assert cycle(talks, passed, certain=False) == [0, 1]


def test_two_workers_in_the_same_collective_wait_for_the_third() -> None:
    talks = [at(worker, WaitsFor("collective", "a", 4), job="a", turn=4, launched={"a": 3}) for worker in (0, 1)]
    assert cycle(*talks, certain=False) == []
    assert cycle(*talks, at(2, None, launched={"a": 3}), certain=False) == []


def test_workers_that_connect_wait_for_nobody_in_a_cycle() -> None:
    here = [at(worker, WaitsFor("connections", None, 5)) for worker in (1, 2)]
    assert find_cycle({0: at(0, None), **{each.worker: each for each in here}}) == []
    assert find_cycle({each.worker: each for each in here}, certain=False) == []


def test_agreements_are_met_by_number() -> None:
    early = at(0, WaitsFor("agreement", None, 5), num_agreements=5, launched={"a": 9})
    elsewhere = at(1, WaitsFor("gradients", "a", 10), num_agreements=4, launched={"a": 10})
    assert cycle(early, elsewhere) == [0, 1]
    assert cycle(early, at(1, WaitsFor("gradients", "a", 9), num_agreements=4, launched={"a": 9})) == []


def test_workers_that_sent_different_things_are_apart() -> None:
    def sent(worker: int, **history: int) -> Position:
        waits = WaitsFor("gradients", "a", 1)
        return at(worker, waits, launched={"a": 1, "b": 1}, history={int(n[1:]): s for n, s in history.items()})

    def apart(*positions: Position) -> list[int]:
        return find_divergence({position.worker: position for position in positions})

    assert apart(sent(0, n1=5, n2=6), sent(1, n1=5, n2=6, n3=7)) == [], "one has come further"
    assert apart(sent(0, n1=5), sent(1, n2=6)) == [], "nothing to compare"
    assert apart(sent(0, n1=5, n2=6), sent(1, n1=5, n2=8)) == [0, 1]
    assert apart(sent(0, n1=5, n2=6), sent(1, n1=5, n2=6), sent(2, n2=8)) == [0, 1, 2]
    assert cycle(sent(0, n1=5, n2=6), sent(1, n1=5, n2=8)) == [], "both have launched what the other waits for"


def test_a_position_survives_the_store() -> None:
    position = at(
        1,
        WaitsFor("gradients", "a", 3),
        job="a",
        turn=4,
        launched={"a": 3},
        ended={"b": "finished"},
        last_turns=["a 3"],
        history={3: 77, 4: 1},
    )
    assert Position.from_json(json.loads(json.dumps(position.to_json()))) == position
    nothing = at(0, last_turns=[])
    assert Position.from_json(json.loads(json.dumps(nothing.to_json()))) == nothing


def test_a_description_names_worker_job_and_turn() -> None:
    waits = at(1, WaitsFor("gradients", "a", 47), job="b", turn=3, launched={"a": 47}, last_turns=["a 46", "a 47"])
    ended = at(0, WaitsFor("agreement", "a", 2), ended={"a": "finished in turn 47"})
    first, second = describe({1: waits, 0: ended}).splitlines()
    assert first.strip() == (
        "worker 0: waits for the other workers' agreement that job 'a' ended; job 'a' has finished in turn 47 here"
    )
    assert second.strip() == (
        "worker 1: in job 'b', turn 3, waits for the gradients of job 'a', turn 47; last turns: a 46, a 47"
    )
