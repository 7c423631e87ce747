"""When a job handles what has come for it: in the same turn on all workers, unless it has been cancelled before."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from motet.intercept.job_signals import JobSignals

NAMES = ["a", "b", "c"]


class Turns:
    """Stands for the turns: ``current`` is the job that computes."""

    def __init__(self) -> None:
        self.current: Any = None
        self._signals: Any = None

    def interrupt_by(self, signals: Any) -> bool:
        new, self._signals = self._signals is None, signals
        return new

    def running_here(self) -> Any:
        return self.current


class Signals:
    """A worker's `JobSignals`, with a job ``a`` that notes what its handler is given."""

    def __init__(self) -> None:
        self.turns, self.job, self.handled = Turns(), SimpleNamespace(name="a"), list[int]()
        self.own = JobSignals(self.turns)  # type: ignore[arg-type]
        self.own.alone = False
        self.turns.current = self.job
        self.own.set_handler(signal.signal, signal.SIGUSR1, lambda number, frame: self.handled.append(number))
        self.turns.current = None

    def turn(self) -> list[int]:
        """Let a turn of the job begin; return what it has handled until now."""
        self.turns.current = self.job
        self.own.resumed(self.job)  # type: ignore[arg-type]
        self.turns.current = None
        return self.handled


@pytest.fixture
def workers() -> Iterator[list[Signals]]:
    made = [Signals(), Signals()]
    yield made
    for worker in reversed(made):
        worker.own.close()


def agree(workers: list[Signals]) -> None:
    notices = [worker.own.pending(NAMES) for worker in workers]
    for worker in workers:
        worker.own.agreed(notices, NAMES)


def test_what_has_come_on_all_workers_is_handled_after_the_next_agreement(workers: list[Signals]) -> None:
    for worker in workers:
        worker.own._arrived(signal.SIGUSR1, None)
        worker.own._arrived(signal.SIGUSR1, None)
        assert worker.turn() == []
    agree(workers)
    assert [worker.turn() for worker in workers] == [[signal.SIGUSR1]] * 2


def test_one_that_has_it_first_waits_for_the_other(workers: list[Signals]) -> None:
    workers[0].own._arrived(signal.SIGUSR1, None)
    agree(workers)
    assert workers[0].turn() == []
    workers[1].own._arrived(signal.SIGUSR1, None)
    agree(workers)
    assert [worker.turn() for worker in workers] == [[signal.SIGUSR1]] * 2


def test_what_only_one_worker_gets_is_handled_there(workers: list[Signals]) -> None:
    workers[1].own._arrived(signal.SIGUSR1, None)
    agree(workers)
    agree(workers)
    assert [worker.turn() for worker in workers] == [[], [signal.SIGUSR1]]


def test_a_handler_that_is_put_back_handles_nothing_more(workers: list[Signals]) -> None:
    for worker in workers:
        worker.own._arrived(signal.SIGUSR1, None)
    agree(workers)
    for worker in workers:
        worker.turns.current = worker.job
        worker.own.set_handler(signal.signal, signal.SIGUSR1, signal.SIG_DFL)
    assert [worker.turn() for worker in workers] == [[], []]


def test_an_alarm_that_is_cancelled_is_not_handled(workers: list[Signals]) -> None:
    own, turns = workers[0].own, workers[0].turns
    turns.current = workers[0].job
    own.set_handler(signal.signal, signal.SIGALRM, lambda number, frame: workers[0].handled.append(number))
    own.begin()
    own.alarm(signal.alarm, 1000)
    own._alarms["a"] = (0.0, 0.0)  # it is due
    own._arrived(signal.SIGALRM, None)
    assert own.alarm(signal.alarm, 0) == 0
    own.alone = True
    assert workers[0].turn() == []


def test_a_worker_without_others_waits_for_nobody(workers: list[Signals]) -> None:
    workers[0].own.alone = True
    workers[0].own._arrived(signal.SIGUSR1, None)
    assert workers[0].turn() == [signal.SIGUSR1]
