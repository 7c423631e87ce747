"""An order is data that users write and all workers follow alike."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.errors import UsageError
from motet.schedule.costs import Cost
from motet.schedule.order import Cursor, Order, parse_order, round_robin

NAMES = ("a", "b", "c", "d", "e")


def test_round_robin_gives_each_job_one_turn_as_listed() -> None:
    order = round_robin(["b", "a", "c"])
    assert order.turns == ("b", "a", "c")
    assert order.weights == {"b": 1, "a": 1, "c": 1}


def test_an_order_is_a_value() -> None:
    assert Order(("a", "b")) == Order(("a", "b"))
    assert hash(Order(("a", "b"))) == hash(Order(("a", "b")))
    with pytest.raises(AttributeError):
        Order(("a",)).turns = ("b",)  # type: ignore[misc]
    with pytest.raises(AssertionError):
        Order(())


def test_weights_count_turns_in_a_round() -> None:
    order = Order(("a", "b", "a", "c"))
    assert order.weights == {"a": 2, "b": 1, "c": 1}
    assert order.names == ("a", "b", "c")


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=1))
def test_what_an_order_prints_is_read_back(turns: list[str]) -> None:
    order = Order(tuple(turns))
    assert parse_order(str(order), order.names) == order
    assert parse_order(list(order.turns), order.names) == order


def test_spaces_around_names_do_not_count() -> None:
    assert parse_order(" a, b ,a", ["a", "b"]).turns == ("a", "b", "a")


def test_unknown_job_is_refused_with_the_nearest_right_name() -> None:
    with pytest.raises(UsageError, match=r"unknown job 'narow'\. Did you mean 'narrow'\? The jobs are: narrow, wide"):
        parse_order("narow,wide", ["narrow", "wide"])


def test_an_unknown_job_near_to_none_gets_the_list() -> None:
    with pytest.raises(UsageError, match=r"unknown job 'x'\. The jobs are: narrow, wide"):
        parse_order("narrow,x,wide", ["narrow", "wide"])


def test_a_job_left_out_is_named() -> None:
    with pytest.raises(UsageError, match="leaves out 'wide', which would never have a turn"):
        parse_order("narrow", ["narrow", "wide"])


@pytest.mark.parametrize("empty", ["", " ", ",", []])
def test_an_empty_order_is_refused(empty: str | list[str]) -> None:
    with pytest.raises(UsageError, match="empty"):
        parse_order(empty, ["a"])


@pytest.mark.parametrize("numbers", [(-1.0, 0.0, 0), (0.0, float("nan"), 0), (0.0, float("inf"), 0), (0.0, 0.0, -1)])
def test_costs_are_finite_and_not_negative(numbers: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="finite number"):
        Cost(*numbers)


def test_a_cursor_goes_round() -> None:
    cursor = Cursor(Order(("a", "b", "a", "c")))
    assert [cursor.next(["a", "b", "c"]) for _ in range(8)] == ["a", "b", "a", "c"] * 2


def test_a_cursor_passes_over_jobs_that_ended() -> None:
    cursor = Cursor(Order(("a", "b", "a", "c")))
    assert [cursor.next({"a", "b", "c"}) for _ in range(2)] == ["a", "b"]
    assert [cursor.next({"b", "c"}) for _ in range(4)] == ["c", "b", "c", "b"]


def test_an_order_that_is_changed_before_the_first_turn_begins_at_its_beginning() -> None:
    cursor = Cursor(round_robin("ab"))
    cursor.change(Order(("b", "a", "a")))
    assert cursor.order == Order(("b", "a", "a"))
    assert [cursor.next("ab") for _ in range(4)] == ["b", "a", "a", "b"]


@pytest.mark.parametrize(
    ("taken", "changed", "following"),
    [
        (1, "baa", "aba"),  # a: one more of it, then b, as if the order had been followed all along
        (2, "abbbb", "bbbab"),  # a, b: three more of b
        (2, "bbbba", "bbbab"),  # the same order, from another place
        (2, "acb", "acb"),
        (2, "caa", "caa"),  # b has ended; a was last, so c is next
        (2, "dc", "dc"),  # nobody who has had a turn goes on
    ],
)
def test_a_changed_order_goes_on_where_it_is_most_like_what_was_taken(taken: int, changed: str, following: str) -> None:
    cursor = Cursor(round_robin("ab"))
    for _ in range(taken):
        cursor.next("ab")
    cursor.change(Order(tuple(changed)))
    assert "".join(cursor.next(set(changed)) for _ in following) == following


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=1), st.integers(0, 30))
def test_a_change_to_the_same_order_changes_nothing_that_can_be_seen(turns: list[str], taken: int) -> None:
    order = Order(tuple(turns))
    cursor, twin = Cursor(order), Cursor(order)
    for _ in range(taken):
        assert cursor.next(order.names) == twin.next(order.names)
    cursor.change(order)
    assert [cursor.next(order.names) for _ in turns] == [twin.next(order.names) for _ in turns]


def test_without_a_live_job_there_is_no_turn() -> None:
    with pytest.raises(ValueError, match="no job is live"):
        Cursor(round_robin("ab")).next([])


def test_a_live_job_outside_the_order_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="not in the order a,b: z"):
        Cursor(round_robin("ab")).next(["a", "z"])


@settings(deadline=None)
@given(st.lists(st.sampled_from(NAMES), min_size=1), st.data())
def test_every_live_job_has_a_turn_within_a_round(turns: list[str], data: st.DataObject) -> None:
    order = Order(tuple(turns))
    cursor, twin = Cursor(order), Cursor(order)
    live = set(order.names)
    while live:
        # The same set in another guise: a worker's own container, or its own iteration order, must not matter.
        seen = [cursor.next(live) for _ in order.turns]
        assert seen == [twin.next(sorted(live, reverse=True)) for _ in order.turns]
        assert set(seen) == live
        live.remove(data.draw(st.sampled_from(sorted(live))))
