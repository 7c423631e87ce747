"""The turn is taken from processes that wait, not from those that compute, or would if they were given a processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from tests.unit.processes.turn_bench import Bench, bench

from motet.processes import unseen
from motet.processes.unseen import Unseen

Starts = Callable[..., int]

SLEEPS = "print('', flush=True); time.sleep(3600)"
SPINS = "print('', flush=True)\nwhile True: pass"
SPINS_ELSEWHERE = """
def spins():
    while True: pass
threading.Thread(target=spins, daemon=True).start()
print('', flush=True)
time.sleep(3600)"""
SPINS_IN_THE_QUEUE = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\n" + SPINS


@pytest.fixture
def starts() -> Iterator[Starts]:
    """Return what starts a process, pinned to one processor, and waits until it does what it is to do."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str) -> int:
        processor = min(os.sched_getaffinity(0))
        text = f"import os, threading, time\nos.sched_setaffinity(0, {{{processor}}})\n{program}"
        process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def made() -> Iterator[Bench]:
    """Seat 0 has the turn, seat 1 is ready, 2 waits for something else."""
    with bench(3) as made:
        made.takes(0)
        made.asks(1)
        yield made


def taken_after(made: Bench, pid: int | None, within_seconds: float) -> float | None:
    """Look again and again, as a worker does; return after how many seconds the turn was taken, None if it was not."""
    watched = Unseen(made.table, made.wake, lambda seat: pid if seat == 0 else None)
    begin = time.perf_counter()
    while (now := time.perf_counter() - begin) < within_seconds:
        if watched.look() is not None:
            return now
        time.sleep(0.005)
    return None


def test_one_that_sleeps_loses_the_turn(made: Bench, starts: Starts) -> None:
    assert taken_after(made, starts(SLEEPS), 30) is not None
    made.has_come(1)


def test_one_that_computes_keeps_it(made: Bench, starts: Starts) -> None:
    assert taken_after(made, starts(SPINS), 0.3) is None
    assert made.holder == 0


def test_one_that_would_compute_and_is_given_no_processor_keeps_it(made: Bench, starts: Starts) -> None:
    starts(SPINS)
    assert taken_after(made, starts(SPINS_IN_THE_QUEUE), 0.5) is None
    assert made.holder == 0


def test_one_whose_other_threads_compute_is_given_longer(made: Bench, starts: Starts) -> None:
    after = taken_after(made, starts(SPINS_ELSEWHERE), 30)
    assert after is not None
    assert after >= unseen.BUSY_SECONDS


def test_one_that_computes_for_very_long_loses_it(made: Bench, starts: Starts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unseen, "LONGEST_SECONDS", 0.2)
    assert taken_after(made, starts(SPINS), 30) is not None
    made.has_come(1)


def test_nothing_is_taken_where_nobody_else_is_ready(starts: Starts) -> None:
    with bench(2) as made:
        made.takes(0)
        assert taken_after(made, starts(SLEEPS), 0.2) is None


def test_a_holder_that_has_changed_meanwhile_begins_anew(
    made: Bench, starts: Starts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who had the turn before, and for how long it slept then, counts nothing."""
    pid, now = starts(SLEEPS), 100.0
    monkeypatch.setattr(unseen.time, "perf_counter", lambda: now)
    watched = Unseen(made.table, made.wake, lambda seat: pid)
    assert watched.look() is None
    made.seats[0].release()
    made.has_come(1)
    made.asks(0)
    now += 60.0
    assert watched.look() is None
    found = []
    for _ in range(1000):  # it may not sleep yet
        now += 1.0
        if (seat := watched.look()) is not None:
            found.append(seat)
            break
        os.sched_yield()
    assert found == [1]


def test_only_one_that_often_loses_its_turn_is_named_and_that_once() -> None:
    losses = unseen.Losses()
    assert not any(losses.lost("starts up", 0) for _ in range(100))
    assert not any(losses.lost("saves", turn) for turn in range(500, 20_000, 500))
    assert not any(losses.lost("hangs in one", 7) for _ in range(100))
    assert [turn for turn in range(1, 100) if losses.lost("waits", turn)] == [10]
    assert not any(losses.lost("waits seldom at first", turn) for turn in (*range(1, 9), *range(1000, 1102)))
    assert losses.lost("waits seldom at first", 1102)


def test_a_process_that_has_gone_harms_nobody(made: Bench) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert taken_after(made, child, 0.1) is None
    assert taken_after(made, None, 0.1) is None


def test_a_strict_order_that_is_stuck_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench(2, strict=True) as made:
        made.asks(1)
        monkeypatch.setattr(unseen, "LONGEST_SECONDS", 0.05)
        assert taken_after(made, None, 0.1) is None
        made.has_come(1)
