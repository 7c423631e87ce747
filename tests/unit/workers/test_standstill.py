"""A gang in which nobody moves for the timeout is found, whatever its workers say they do; one that moves is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch._C._distributed_c10d import HashStore

from motet.errors import GangError, SyncTimeoutError
from motet.workers import watch
from motet.workers.deadlock import Position, WaitsFor
from motet.workers.stack import position_text
from motet.workers.watch import Watch

SOON = 20.0  # seconds, for what happens within about 4


class Ending(Watch):
    """A watch that ends no process: it keeps the error, and lets a test wait for it."""

    def _end(self, error: GangError) -> None:
        self.ended_by.set()

    ended_by: threading.Event


@pytest.fixture
def watches() -> Iterator[Callable[..., list[Ending]]]:
    made: list[Ending] = []

    def make(timeout_seconds: float) -> list[Ending]:
        store = HashStore()
        for worker in range(2):
            made.append(Ending(worker, 2, store, timeout_seconds, suspicion_seconds=0.1))
            made[-1].ended_by = threading.Event()
            made[-1].turn_ended("gpt", 6, 0)
            made[-1].at("computing", "gpt", 7)
        return made

    yield make
    for each in made:
        each.close()


def test_a_gang_in_which_nobody_moves_is_found(watches: Callable[..., list[Ending]]) -> None:
    for worker, each in enumerate(watches(timeout_seconds=0.5)):
        assert each.ended_by.wait(SOON)
        assert isinstance(each.error, SyncTimeoutError)
        text = str(each.error)
        for other in range(2):
            assert f"worker {other}: in job 'gpt', turn 7, computing for" in text, f"worker {worker} names {other}"
        assert "test_standstill.py:" in text, "the line in which the main thread stands"
        assert "--timeout" in text


def test_a_gang_in_which_one_worker_moves_is_not(watches: Callable[..., list[Ending]]) -> None:
    slow, waiting = watches(timeout_seconds=3)
    while slow.position().still_seconds < 7:
        waiting.at("computing", "gpt", 7)
        assert not slow.ended_by.wait(0.3), slow.error


def test_a_loop_that_makes_collectives_of_its_own_moves(watches: Callable[..., list[Ending]]) -> None:
    """Hand-written all-reduces in one long turn: each look may find the main thread inside of one."""
    both = watches(timeout_seconds=0.5)
    asked = 0

    def num_asked() -> int:
        return asked

    for each in both:
        each.count_questions(num_asked)
        each.block(True)
    begin = time.monotonic()
    while time.monotonic() - begin < 9:
        asked += 1
        for each in both:
            assert not each.ended_by.wait(0.05), each.error
    for each in both:  # and now it stands
        assert each.ended_by.wait(SOON)


def test_a_job_that_begins_has_time_for_its_imports(watches: Callable[..., list[Ending]]) -> None:
    both = watches(timeout_seconds=0.5)
    for each in both:
        each.at("computing", "other", 1)
    while min(each.position().still_seconds for each in both) < 5:
        assert not both[0].ended_by.wait(0.1)
    assert [each.error for each in both] == [None, None]


def test_a_computation_below_the_timeout_is_let_be(watches: Callable[..., list[Ending]]) -> None:
    both = watches(timeout_seconds=60)
    while min(each.position().still_seconds for each in both) < 3:
        assert not both[0].ended_by.wait(0.1)
    assert [each.error for each in both] == [None, None]


def test_time_in_which_the_process_was_stopped_does_not_count(
    watches: Callable[..., list[Ending]], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = watches(timeout_seconds=60)
    earlier = time.monotonic
    monkeypatch.setattr(watch.time, "monotonic", lambda: earlier() + 1000)  # as after SIGSTOP, for 1000 s, and SIGCONT
    while min(each.position().still_seconds for each in both) < 3:
        assert not both[0].ended_by.wait(0.1)
    assert [each.error for each in both] == [None, None]


def test_a_position_says_for_how_long_and_where() -> None:
    fields: dict[str, Any] = {"worker": 1, "epoch": 1, "beat": 1, "job": "gpt", "turn": 7, "phase": "computing"}
    here = Position(**fields, item=None, still_seconds=31.2, where="train.py:7 in step")
    assert str(here) == "worker 1: in job 'gpt', turn 7, computing for 31 s at train.py:7 in step"
    assert Position.from_json(here.to_json()) == here
    waits = Position(**fields, item=WaitsFor("collective", "gpt", 7), where="train.py:7 in step")
    assert "waits for a collective that job 'gpt' called in turn 7 at train.py:7 in step" in str(waits)


def test_where_a_thread_stands_is_reported_in_lines_of_its_own_code() -> None:
    notices: list[str] = []

    class Looks(threading.Event):
        """Looks where its caller stands when that begins to wait."""

        def wait(self, timeout: float | None = None) -> bool:
            import sys

            notices.append(position_text(sys._getframe()))
            return True

    def outer() -> None:
        Looks().wait()

    outer()
    assert notices[0].count("test_standstill.py") == 2
    assert "in wait, called from " in notices[0]
    assert notices[0].endswith("in outer")
