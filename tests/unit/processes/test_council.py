"""All processes of a job decide in the same turns, and those that do not count alike are told from those that wait."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable

import pytest
from torch._C._distributed_c10d import HashStore, Store

from motet.processes import council
from motet.processes.council import Council, Decision
from motet.processes.peers import Peers

NUM_TURNS = 120


class Time:
    """A clock that goes when it is told to, and one for deadlines that never come."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def in_threads(num: int, body: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def guarded(worker: int) -> None:
        try:
            body(worker)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(worker,), daemon=True) for worker in range(num)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


def peers_of(store: Store, worker: int, num_workers: int) -> Peers:
    return Peers(store, worker, num_workers, 60.0)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_all_decide_the_same_in_the_same_turns(num_workers: int, seed: int) -> None:
    """The request of worker 0 comes at any moment; each worker is fast and slow by turns."""
    store, stop_request = HashStore(), [0]
    decided: list[list[tuple[int, Decision]]] = [[] for _ in range(num_workers)]
    councils = [
        Council(peers_of(store, worker, num_workers), lambda: stop_request[0], pytest.fail)
        for worker in range(num_workers)
    ]
    meet = threading.Barrier(num_workers)

    def takes_turns(worker: int) -> None:
        chance = random.Random(f"{seed} {worker}")
        for turn in range(1, NUM_TURNS + 1):
            if turn % 2:  # as far ahead as a synchronization lets them
                meet.wait(60)
            if worker == 0 and chance.random() < 0.05:
                stop_request[0] += 1
            if (decision := councils[worker].consult(turn)) is not None:
                decided[worker].append((turn, decision))

    in_threads(num_workers, takes_turns)
    assert decided[0]
    assert all(each == decided[0] for each in decided)
    assert decided[0][0][0] == 1
    assert len({decision.stop_request for _, decision in decided[0]}) > 1
    if num_workers > 1:  # nothing is left in the store, but the decision of a turn that nobody has come to
        assert store.num_keys() <= 1


def test_decisions_come_about_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr(council, "time", time)
    deciding = Council(peers_of(HashStore(), 0, 1), lambda: 0, pytest.fail)
    moments = []
    for turn in range(1, 20_001):
        time.now += 0.001 if turn < 10_000 else 0.1  # it becomes slower
        if deciding.consult(turn) is not None:
            moments.append(time.now)
    fast = [after - before for before, after in itertools.pairwise(moments) if 3 < before < 9]
    slow = [after - before for before, after in itertools.pairwise(moments) if before > 100]
    assert min(fast) > 0.45
    assert max(fast) < 0.55
    assert max(slow) < 0.7


def test_the_clock_is_worker_0s(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    one, two = (Council(peers_of(store, worker, 2), lambda: 2, pytest.fail) for worker in range(2))
    first = one.consult(1)
    assert first is not None
    assert two.consult(1) == first


def test_one_that_takes_other_turns_is_noticed_and_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(council, "LONGEST_CONSULT_SECONDS", 0.05)
    noticed: list[int] = []
    deciding = Council(peers_of(HashStore(), 1, 2), lambda: 0, lambda: noticed.append(1))
    assert deciding.consult(1) is None
    monkeypatch.setattr(council, "LONGEST_CONSULT_SECONDS", 1e9)  # whoever waits again never ends
    assert [deciding.consult(turn) for turn in range(2, 9)] == [None] * 7
    assert noticed == [1]
