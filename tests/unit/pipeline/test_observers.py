"""Observers are told everything, the user each thing once; an observer that fails harms nobody."""

from __future__ import annotations

import threading

import pytest

from motet.events import Event, MetricsLogged, Notice, RunEnded
from motet.pipeline.observers import Observers

ENDED = RunEnded(time=1.0, wall_seconds=1.0)


class Seen:
    """Keeps what it is told."""

    def __init__(self, message: list[str], *, changes_nothing_global: bool = False) -> None:
        self.events: list[Event] = []
        self.changes_nothing_global = changes_nothing_global
        self._told = message

    def observe(self, event: Event) -> None:
        self._told.append("observed")
        self.events.append(event)


class Failing:
    """Fails, and counts how often it could."""

    num_calls = 0

    def observe(self, event: Event) -> None:
        self.num_calls += 1
        raise OSError("no space left")


@pytest.mark.parametrize("first", [True, False])
def test_a_failing_observer_is_left_out_and_the_user_is_notified(first: bool) -> None:
    reported: list[str] = []
    failing, seen = Failing(), Seen([])
    observers = Observers([failing, seen] if first else [seen, failing], reported.append, lambda: None)
    observers.observe(ENDED)
    observers.observe(ENDED)
    assert failing.num_calls == 1
    assert [event for event in seen.events if event == ENDED] == [ENDED, ENDED]
    assert [type(event) for event in seen.events if event != ENDED] == [Notice]
    assert len(reported) == 1
    assert "Failing failed and is left out from now on (OSError: no space left)" in reported[0]
    assert observers.notices == tuple(reported)


def test_a_notice_is_reported_once_for_each_job() -> None:
    reported: list[str] = []
    seen = Seen([])
    observers = Observers([seen], reported.append, lambda: None)
    for job in ("a", "b", "a", None):
        observers.notify(job, "waits in place")
    assert reported == ["job 'a' waits in place", "job 'b' waits in place", "waits in place"]
    assert [event.job for event in seen.events if isinstance(event, Notice)] == ["a", "b", None]
    assert observers.notices == tuple(reported)


def test_an_observer_finds_what_it_would_find_without_motet_unless_it_changes_nothing() -> None:
    order: list[str] = []
    Observers([Seen(order)], lambda text: None, lambda: order.append("settled")).observe(ENDED)
    assert order == ["settled", "observed"]
    order.clear()
    quiet = Seen(order, changes_nothing_global=True)
    Observers([quiet], lambda text: None, lambda: order.append("settled")).observe(ENDED)
    assert order == ["observed"]


def test_observers_run_on_one_thread_alone() -> None:
    threads: list[int] = []
    seen = Seen([])
    observers = Observers([seen], lambda text: None, lambda: threads.append(threading.get_ident()))
    logged = MetricsLogged(time=1.0, job="a", turn=1, values={"loss": 1.0})
    thread = threading.Thread(target=observers.observe, args=(logged,))
    thread.start()
    thread.join()
    assert seen.events == [], "the state of whoever has the main thread must not be exchanged by another"
    observers.observe(ENDED)
    assert seen.events == [logged, ENDED]
    assert set(threads) == {threading.get_ident()}
