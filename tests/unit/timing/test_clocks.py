"""Waiting and time in flight are accounted for exactly; time is given to the clocks, never measured here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.timing import clocks
from motet.timing.clocks import LONGEST_LOOK_SECONDS, LinkMeter, Stopwatch, Waited


class Time:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(clocks, "time", fake)
    return fake


def test_waits_add_up(time: Time) -> None:
    watch = Stopwatch()
    for seconds in (1.0, 2.5):
        time.now += 10
        watch.wait_begins()
        time.now += seconds
        watch.wait_ends()
    assert watch.total_seconds == 3.5
    assert watch.waited_seconds(time.now) == 3.5


def test_an_open_wait_counts_up_to_the_moment_that_is_asked_for(time: Time) -> None:
    watch = Stopwatch()
    watch.wait_begins()
    time.now += 4
    assert watch.waited_seconds(time.now) == 4
    assert watch.waited_seconds(time.now - 3) == 1
    assert watch.waited_seconds(time.now - 5) == 0, "a moment before the wait began"
    assert watch.total_seconds == 0


def test_an_end_without_a_beginning_is_nothing(time: Time) -> None:
    watch = Stopwatch()
    watch.wait_ends()
    time.now += 4
    assert watch.total_seconds == 0


def test_one_bucket_is_charged_its_whole_time_in_flight() -> None:
    link = LinkMeter()
    mark = link.begin(5.0)
    assert link.end(mark, 7.5) == 2.5


def test_two_buckets_at_once_are_charged_half_each() -> None:
    link = LinkMeter()
    one = link.begin(0.0)
    two = link.begin(2.0)
    assert link.end(one, 4.0) == 2.0 + 1.0
    assert link.end(two, 5.0) == 1.0 + 1.0
    assert link.busy_seconds(9.0) == 5.0


def test_a_pause_is_charged_to_nobody() -> None:
    link = LinkMeter()
    assert link.end(link.begin(0.0), 1.0) == 1.0
    assert link.end(link.begin(10.0), 11.0) == 1.0
    assert link.busy_seconds(20.0) == 2.0


def test_moments_out_of_order_are_never_charged_twice() -> None:
    """The network's threads may be overtaken between reading the clock and telling it."""
    link = LinkMeter()
    one = link.begin(0.0)
    two = link.begin(1.0)
    first = link.end(one, 3.0)
    second = link.end(two, 2.5)
    assert first + second == pytest.approx(3.0)


flights = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 300)), min_size=1, max_size=20)


@given(flights)
def test_the_shares_add_up_to_the_time_during_which_anything_was_in_flight(flights: list[tuple[int, int]]) -> None:
    link, marks, charged = LinkMeter(), {}, 0.0
    moments = [(begin, 0, number) for number, (begin, _) in enumerate(flights)]
    moments += [(begin + length, 1, number) for number, (begin, length) in enumerate(flights)]
    for moment, ends, number in sorted(moments):
        if ends:
            charged += link.end(marks[number], float(moment))
        else:
            marks[number] = link.begin(float(moment))
    busy = {moment for begin, length in flights for moment in range(begin, begin + length)}
    assert charged == pytest.approx(len(busy))
    assert link.busy_seconds(2000.0) == pytest.approx(len(busy))


def test_a_process_that_was_stopped_has_waited_for_nobody(time: Time) -> None:
    waited, report = Waited(), []
    for seconds in (0.5, 0.5, 4000.0, 0.5):
        time.now += seconds
        report.append(waited.seconds)
    assert report == [0.5, 1.0, 1.0 + LONGEST_LOOK_SECONDS, 1.5 + LONGEST_LOOK_SECONDS]
    waited.begin_again()
    time.now += 0.5
    assert waited.seconds == 0.5
