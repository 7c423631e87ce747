"""What workers send each other arrives once, in order, with the sender's number; a worker that is silent is named."""

from __future__ import annotations

import threading

import pytest
from torch._C._distributed_c10d import HashStore

from motet.errors import WorkerLostError
from motet.processes import exchange
from motet.processes.exchange import LOST_SECONDS, Exchange
from motet.processes.messages import Abandon, EndJob, Finish, StopRequest


def gang(num_workers: int) -> list[Exchange]:
    store = HashStore()
    return [Exchange(store, worker, num_workers) for worker in range(num_workers)]


def test_worker_0_receives_reports_with_their_senders() -> None:
    first, second, third = gang(3)
    second.report(StopRequest(1))
    third.report(StopRequest(2))
    second.report(StopRequest(2))
    first.report(StopRequest(1))
    received = list(first.received())
    assert [message for worker, message in received if worker == 1] == [StopRequest(1), StopRequest(2)]
    assert sorted(worker for worker, _ in received) == [0, 1, 1, 2]
    assert not list(first.received())


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_all_receive_what_worker_0_broadcasts(num_workers: int) -> None:
    workers = gang(num_workers)
    workers[0].broadcast(EndJob("a"))
    workers[0].broadcast(Finish())
    for each in workers:
        assert list(each.received()) == [(0, EndJob("a")), (0, Finish())]


def test_others_receive_what_a_worker_sends_to_them() -> None:
    workers = gang(3)
    workers[1].send_to_others(Abandon("gone"))
    assert [list(each.received()) for each in workers] == [[(1, Abandon("gone"))], [], [(1, Abandon("gone"))]]


def test_a_worker_that_does_not_beat_any_more_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Time:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    time = Time()
    monkeypatch.setattr(exchange, "time", time)
    first, second = gang(2)

    def beat(seconds: float, *workers: Exchange) -> None:
        for _ in range(round(seconds)):
            time.now += 1.0
            for each in workers:
                each.beat()

    beat(2 * LOST_SECONDS, first, second)
    beat(LOST_SECONDS - 10, first)
    time.now += 20  # worker 0 stands still itself: the other one is given as long again
    beat(LOST_SECONDS - 10, first)
    with pytest.raises(WorkerLostError, match="worker 1 has not been heard of"):
        beat(20, first)


def test_a_worker_to_which_nobody_writes_looks_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    class Time:
        now = 100.0

        def monotonic(self) -> float:
            return self.now

    class Counting(HashStore):
        looks = 0

        def queue_len(self, key: str) -> int:
            type(self).looks += 1
            return HashStore.queue_len(self, key)

    time = Time()
    monkeypatch.setattr(exchange, "time", time)
    store = Counting()
    first, second = (Exchange(store, worker, 2) for worker in range(2))
    for _ in range(50):  # a second, at 50 looks of the worker's loop
        assert not list(first.received())
        time.now += 0.02
    assert Counting.looks <= 11
    second.report(StopRequest(1))
    time.now += exchange.LOOK_SECONDS
    assert list(first.received()) == [(1, StopRequest(1))]
    second.report(StopRequest(2))
    assert list(first.received()) == [(1, StopRequest(2))]  # at once: one message is seldom the only one


def test_a_worker_beats_while_somebodys_code_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BEAT_SECONDS", 0.001)
    store = HashStore()
    first = Exchange(store, 0, 2)
    with first.beating():
        for beat in ("1", "2"):
            store.wait(["beat/0"])
            while store.get("beat/0").decode() < beat:
                pass
    last = store.get("beat/0")
    assert not [thread.name for thread in threading.enumerate() if thread.name == "motet-beats"]
    assert store.get("beat/0") == last
