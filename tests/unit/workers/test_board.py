"""What workers leave for each other in the store, and what that costs it while nothing moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from torch.distributed import HashStore

from motet.errors import DivergenceError, GangError
from motet.workers.board import Board
from motet.workers.deadlock import WaitsFor
from motet.workers.sockets import seconds_between_looks
from motet.workers.watch import Watch


class Counting:
    """A store that counts what it is asked."""

    def __init__(self) -> None:
        self._store = HashStore()
        self.asked: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def counted(*words: Any) -> Any:
            self.asked[name] += 1
            return call(*words)

        return counted


class Ending(Watch):
    """A watch that ends no process; its looks are made by the test."""

    def _end(self, error: GangError) -> None:
        pass


@pytest.fixture
def waiting() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def watches(store: Any, num_workers: int) -> list[Ending]:
    made = [Ending(worker, num_workers, None) for worker in range(num_workers)]
    for watch in made:
        watch.board = Board(watch.worker, num_workers, store)
        watch.turn_ended("gpt", 6, 0)
        watch.board.join(watch.position())
    return made


def look(made: list[Ending]) -> None:
    for watch in reversed(made):
        watch._compare(4.0)


@pytest.mark.parametrize("num_workers", [2, 16, 64, 256, 1024])
def test_a_stall_costs_the_store_a_few_messages_a_worker(num_workers: int, waiting: ExitStack) -> None:
    store = Counting()
    made = watches(store, num_workers)
    store.asked.clear()
    for watch in made:  # all of them wait for something that takes long
        waiting.enter_context(watch.waiting_for(WaitsFor("gradients", "gpt", 6)))
    look(made)
    look(made)
    assert all(watch.error is None for watch in made)
    a_look = store.asked.total() / 2
    assert a_look <= 3 * num_workers + 2, store.asked
    assert a_look / seconds_between_looks(num_workers) <= 200, "a second, however many workers there are"
    assert store.asked["multi_get"] == 2, "worker 0 alone reads where all stand, at once"


def test_worker_0_judges_and_those_who_wait_hear_of_it(waiting: ExitStack) -> None:
    made = watches(HashStore(), 3)
    made[0].at("computing", "gpt", 7)
    made[1].launched["conv"] = 3
    waiting.enter_context(made[1].waiting_for(WaitsFor("gradients", "conv", 3)))
    waiting.enter_context(made[2].waiting_for(WaitsFor("agreement", None, 1)))
    for _ in range(4):
        look(made)
    assert [type(watch.error) for watch in made] == [type(None), DivergenceError, DivergenceError]
    assert "workers [1, 2]" in str(made[2].error)
    assert not made[2].error.from_worker_0, "who may never tell"  # type: ignore[union-attr]
    waiting.enter_context(made[0].waiting_for(WaitsFor("agreement", None, 1)))
    look(made)
    look(made)
    assert isinstance(made[0].error, DivergenceError)


def test_positions_are_of_those_who_have_stood_still_and_wait_for_nobody() -> None:
    store = HashStore()
    made = [Ending(worker, 2, None) for worker in range(2)]
    for watch in made:
        watch.board = Board(watch.worker, 2, store)
    made[0].board.join(made[0].position())
    assert made[0].board.positions() == {}, "worker 1 has not come yet"
    made[1].board.join(made[1].position())
    assert made[0].board.positions() == {}, "nobody has stood still"
    made[1]._compare(4.0)
    assert list(made[0].board.positions()) == [1]


def test_failures_are_withdrawn_and_the_latest_are_read() -> None:
    store = HashStore()
    boards = [Board(worker, 30, store) for worker in range(30)]
    assert boards[0].failures() == {}
    for board in boards:  # all have met it alike
        board.publish_failure("ValueError")
    for board in boards:
        board.withdraw_failure()
    assert boards[0].failures() == {}
    boards[7].publish_failure("KeyError")
    assert boards[0].failures() == {7: "KeyError"}
    assert boards[7].failures() == {}, "its own"
    assert boards[0].exits() == {}
    boards[8].publish_exit("gone")
    assert boards[0].exits() == {8: "gone"}
