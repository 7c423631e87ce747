"""All processes of a job decide in the same turns, and those that do not count alike are told from those that wait."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable

import pytest
from torch._C._distributed_c10d import HashStore, Store

from motet.errors import GangError, SyncTimeoutError
from motet.processes import peers
from motet.processes.peers import Council, Decision, Peers

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


def peers_of(store: Store, worker: int, num_workers: int, timeout_seconds: float = 60.0) -> Peers:
    return Peers(store, worker, num_workers, timeout_seconds)


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_all_decide_the_same_in_the_same_turns(num_workers: int, seed: int) -> None:
    """The wish of worker 0 comes at any moment; each worker is fast and slow by turns."""
    store, wish = HashStore(), [0]
    decided: list[list[tuple[int, Decision]]] = [[] for _ in range(num_workers)]
    councils = [
        Council(peers_of(store, worker, num_workers), lambda: wish[0], pytest.fail) for worker in range(num_workers)
    ]
    meet = threading.Barrier(num_workers)

    def takes_turns(worker: int) -> None:
        chance = random.Random(f"{seed} {worker}")
        for turn in range(1, NUM_TURNS + 1):
            if turn % 2:  # as far ahead as a synchronization lets them
                meet.wait(60)
            if worker == 0 and chance.random() < 0.05:
                wish[0] += 1
            if (decision := councils[worker].consult(turn)) is not None:
                decided[worker].append((turn, decision))

    in_threads(num_workers, takes_turns)
    assert decided[0]
    assert all(each == decided[0] for each in decided)
    assert decided[0][0][0] == 1
    assert len({decision.wish for _, decision in decided[0]}) > 1
    if num_workers > 1:  # nothing is left in the store, but the word of a turn that nobody has come to
        assert store.num_keys() <= 1


def test_decisions_come_about_twice_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr(peers, "time", time)
    council = Council(peers_of(HashStore(), 0, 1), lambda: 0, pytest.fail)
    moments = []
    for turn in range(1, 20_001):
        time.now += 0.001 if turn < 10_000 else 0.1  # it becomes slower
        if council.consult(turn) is not None:
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


def test_one_that_takes_other_turns_is_told_and_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "LONGEST_CONSULT_SECONDS", 0.05)
    told: list[int] = []
    council = Council(peers_of(HashStore(), 1, 2), lambda: 0, lambda: told.append(1))
    assert council.consult(1) is None
    monkeypatch.setattr(peers, "LONGEST_CONSULT_SECONDS", 1e9)  # whoever waits again never ends
    assert [council.consult(turn) for turn in range(2, 9)] == [None] * 7
    assert told == [1]


def test_what_worker_0_raises_is_raised_by_all() -> None:
    store = HashStore()

    def fails() -> str:
        raise GangError("no place")

    with pytest.raises(GangError, match="no place"):
        peers_of(store, 0, 2).broadcast_from_0(fails, key="a")
    with pytest.raises(GangError, match="no place"):
        peers_of(store, 1, 2).broadcast_from_0(fails, key="a")


def test_who_waits_for_worker_0_waits_no_longer_than_it_says() -> None:
    with pytest.raises(SyncTimeoutError, match="worker 0"):
        peers_of(HashStore(), 1, 2).broadcast_from_0(lambda: "", key="a", within_seconds=0.02)
    with pytest.raises(SyncTimeoutError, match="worker 0"):
        peers_of(HashStore(), 1, 2, timeout_seconds=0.02).broadcast_from_0(lambda: "", key="a")
