"""What jobs tell of their turns, laid side by side: computing, travel, what of it was hidden, shares, starting up."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest

from motet.events import Event, SyncEnded, TurnEnded
from motet.processes.timeline import TURNS_KEPT, TURNS_SKIPPED, Timeline
from motet.processes.turn_table import Stretch


class Sums:
    """Stands for the run's ledger."""

    def __init__(self) -> None:
        self.compute: defaultdict[str, float] = defaultdict(float)
        self.startup: defaultdict[str, float] = defaultdict(float)
        self.syncs: defaultdict[str, list[Any]] = defaultdict(list)

    def computed(self, job: str, seconds: float, startup_seconds: float = 0.0) -> None:
        self.compute[job] += seconds
        self.startup[job] += startup_seconds

    def synced(self, job: str, figures: Any, turn_end: float | None = None) -> float:
        self.syncs[job].append(figures)
        return 0.0


class Jobs:
    """A timeline, its sums, its events; times are seconds here."""

    def __init__(self) -> None:
        self.sums = Sums()
        self.events: list[Event] = []
        self.timeline = Timeline(self.sums, self.events.append)  # type: ignore[arg-type]
        self.turns: defaultdict[str, int] = defaultdict(int)
        self._reported: list[tuple[str, Stretch]] = []

    def held(self, job: str, begin: float, end: float) -> None:
        self._reported.append((job, Stretch(ns(begin), ns(end), 0, self.turns[job], False)))

    def synced(self, job: str, end: float, launched: float, arrived: float, backward: float | None = None) -> None:
        self.turns[job] += 1
        began = ns(launched if backward is None else backward)
        self._reported.append(
            (job, Stretch(ns(end), ns(end), ns(arrived), self.turns[job], True, ns(launched), 40, began))
        )

    def add(self, offset: int = 0) -> None:
        reported, self._reported = self._reported, []
        self.timeline.add(reported, lambda job: offset)

    def syncs(self, job: str) -> list[SyncEnded]:
        return [event for event in self.events if isinstance(event, SyncEnded) and event.job == job]

    def turn_ends(self, job: str) -> list[TurnEnded]:
        return [event for event in self.events if isinstance(event, TurnEnded) and event.job == job]


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


def test_a_turns_computing_is_what_it_held_and_its_waits_are_not(jobs: Jobs) -> None:
    jobs.held("a", 10.0, 11.0)
    jobs.held("a", 13.0, 13.5)
    jobs.synced("a", 13.5, 13.4, 14.0, backward=10.0)
    jobs.add()
    (turn,) = jobs.turn_ends("a")
    assert (turn.begin, turn.time, turn.turn) == (10.0, 13.5, 1)
    assert turn.waited_seconds == pytest.approx(2.0)
    assert jobs.sums.compute["a"] == pytest.approx(1.5)


def test_until_its_first_backward_a_job_starts_up(jobs: Jobs) -> None:
    jobs.held("a", 10.0, 12.0)  # imports
    jobs.held("a", 15.0, 17.0)  # of which a backward begins at 16
    jobs.synced("a", 17.0, 16.5, 18.0, backward=16.0)
    jobs.held("a", 18.0, 19.0)
    jobs.synced("a", 19.0, 19.0, 20.0, backward=18.5)
    jobs.add()
    assert jobs.sums.startup["a"] == pytest.approx(3.0)
    assert jobs.sums.compute["a"] == pytest.approx(2.0)
    assert [turn.startup_seconds for turn in jobs.turn_ends("a")] == [pytest.approx(3.0), 0.0]


def test_hidden_is_what_any_job_computed_while_gradients_were_in_flight(jobs: Jobs) -> None:
    jobs.held("a", 0.5, 2.0)
    jobs.synced("a", 2.0, 1.5, 6.0)  # half a second beneath its own backward
    jobs.held("b", 3.0, 4.0)
    jobs.held("b", 5.0, 8.0)
    jobs.synced("b", 8.0, 8.0, 9.0)
    jobs.add()
    assert not jobs.syncs("a")  # a moment later: all is known of what was computed meanwhile
    jobs.add()
    (sync,) = jobs.syncs("a")
    assert (sync.launched, sync.completed) == (1.5, 6.0)
    assert sync.hidden_seconds == pytest.approx(0.5 + 1.0 + 1.0)
    assert sync.wait_begin == 6.0, "somebody computed when they came"
    assert jobs.syncs("b")[0].hidden_seconds == 0.0
    assert jobs.syncs("b")[0].wait_begin == 8.0


def test_the_worker_waits_for_one_of_several_at_once(jobs: Jobs) -> None:
    jobs.held("a", 0.0, 1.0)
    jobs.synced("a", 1.0, 1.0, 5.0)
    jobs.held("b", 1.0, 2.0)
    jobs.synced("b", 2.0, 2.0, 6.0)
    jobs.held("c", 2.0, 3.0)
    jobs.synced("c", 3.0, 3.0, 4.0)
    jobs.add()
    jobs.add()
    waited = sum(sync.time - sync.wait_begin for name in "abc" for sync in jobs.syncs(name))
    assert waited <= 3.0, "from 3.0, when the last has computed, to 6.0"
    assert jobs.syncs("b")[0].wait_begin >= 3.0


def test_what_overlaps_is_hidden_once(jobs: Jobs) -> None:
    """A turn that was taken from a job that waited unseen is held by two at a time."""
    jobs.held("a", 1.0, 2.0)
    jobs.synced("a", 2.0, 2.0, 10.0)
    jobs.held("b", 3.0, 7.0)
    jobs.held("c", 4.0, 6.0)
    jobs.held("c", 6.5, 8.0)
    jobs.add()
    jobs.add()
    assert jobs.syncs("a")[0].hidden_seconds == pytest.approx(5.0)


def test_what_is_reported_in_another_order_counts_alike(jobs: Jobs) -> None:
    jobs.synced("a", 2.0, 2.0, 6.0)
    jobs.add()
    jobs.held("b", 3.0, 4.0)
    jobs.held("a", 1.0, 2.0)
    jobs.add()
    assert jobs.syncs("a")[0].hidden_seconds == pytest.approx(1.0)


def test_of_what_is_in_flight_at_once_each_is_charged_its_share_of_the_link(jobs: Jobs) -> None:
    jobs.synced("a", 1.0, 1.0, 5.0)
    jobs.synced("b", 3.0, 3.0, 9.0)
    jobs.add()
    jobs.add()
    assert jobs.syncs("a")[0].link_seconds == pytest.approx(2.0 + 1.0)
    assert jobs.syncs("b")[0].link_seconds == pytest.approx(1.0 + 4.0)
    assert sum(sync.link_seconds for job in "ab" for sync in jobs.syncs(job)) == pytest.approx(8.0)  # 1 to 9


def test_shares_are_of_what_is_in_flight_at_once_whenever_it_is_reported(jobs: Jobs) -> None:
    jobs.held("a", 0.0, 1.0)
    jobs.synced("a", 1.0, 1.0, 5.0)
    jobs.add()
    jobs.held("b", 1.0, 2.0)
    jobs.synced("b", 2.0, 3.0, 7.0)  # is reported one call later, and travelled with the first from 3 to 5
    jobs.add()
    jobs.add()
    shares = [sync.link_seconds for name in "ab" for sync in jobs.syncs(name)]
    assert shares == [pytest.approx(3.0), pytest.approx(3.0)]


def test_gradients_that_were_there_before_anybody_waited_took_no_time(jobs: Jobs) -> None:
    jobs.synced("a", 2.0, 2.0, 1.9)
    jobs.add()
    jobs.add()
    (sync,) = jobs.syncs("a")
    assert (sync.hidden_seconds, sync.link_seconds, sync.completed - sync.launched) == (0.0, 0.0, 0.0)


def test_costs_are_known_once_a_synchronization_is(jobs: Jobs) -> None:
    for number in range(TURNS_SKIPPED + 1):
        assert jobs.timeline.costs["a"].figures() is None
        jobs.held("a", 10 * number, 10 * number + 1)
        jobs.synced("a", 10 * number + 1, 10 * number + 1, 10 * number + 3)
        jobs.add()
    assert jobs.timeline.costs["a"].figures() is None  # its turn is counted, its synchronization not yet
    jobs.add()
    assert jobs.timeline.costs["a"].figures() == (pytest.approx(1.0), pytest.approx(2.0), 40)


def test_costs_are_those_of_the_last_turns(jobs: Jobs) -> None:
    for number in range(TURNS_SKIPPED + TURNS_KEPT + 4):
        seconds = 5.0 if number < TURNS_SKIPPED + 4 else 1.0
        jobs.held("a", 20 * number, 20 * number + seconds)
        jobs.synced("a", 20 * number + seconds, 20 * number + seconds, 20 * number + 2 * seconds)
        jobs.add()
    jobs.add()
    assert jobs.timeline.costs["a"].figures() == (pytest.approx(1.0), pytest.approx(1.0), 40)


def test_what_a_job_does_after_its_last_synchronization_counts(jobs: Jobs) -> None:
    jobs.held("a", 0.0, 1.0)
    jobs.synced("a", 1.0, 1.0, 2.0)
    jobs.held("a", 2.0, 2.75)
    jobs.add(offset=40)
    jobs.timeline.ended("a")
    assert jobs.sums.compute["a"] + jobs.sums.startup["a"] == pytest.approx(1.75)
    assert [event.turn for event in jobs.events if isinstance(event, SyncEnded | TurnEnded)] == [41, 41, 42]
    assert jobs.timeline.costs["a"].figures() is None
