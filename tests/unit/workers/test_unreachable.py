"""A store that never answers, as on a machine that the network has left: whoever asks it goes on, or ends in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from torch.distributed import HashStore

from motet.errors import SyncTimeoutError
from motet.launcher import rendezvous as hosts_rendezvous
from motet.launcher.hosts import Meeting, Settled
from motet.launcher.rendezvous import HostsRendezvous
from motet.workers import board, watch
from motet.workers.asked_store import AskedStore
from motet.workers.deadlock import WaitsFor
from motet.workers.watch import Watch


class Silent:
    """A store, and a rendezvous, of which every answer waits for ``answers``."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def clone(self) -> Silent:
        return self

    def __getattr__(self, name: str) -> Any:
        return lambda *words: self.answers.wait() and 1


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Silent]:
    for module in (board, watch, hosts_rendezvous):
        monkeypatch.setattr(module, "STORE_SECONDS", 0.1)
    monkeypatch.setattr(watch, "LAST_SECONDS", 0.2)
    store = Silent()
    yield store
    store.answers.set()  # for the threads that still wait


def test_words_of_a_worker_that_leaves_hold_it_up_for_moments(silent: Silent) -> None:
    watching = Watch(0, 2, silent)  # type: ignore[arg-type]
    begin = time.monotonic()
    watching.board.publish_exit("worker 0 has left")
    watching.board.publish_failure("ValueError")
    watching.board.withdraw_failure()
    assert watching.board.failures(within_seconds=0.1) == {}
    watching.close()
    assert time.monotonic() - begin < 5


def test_the_timeout_needs_no_store(silent: Silent) -> None:
    watching = Watch(0, 2, silent, timeout_seconds=0.5, suspicion_seconds=0.1)  # type: ignore[arg-type]
    watching.turn_ended("gpt", 7, 0)
    with watching.waiting_for(WaitsFor("gradients", "gpt", 7)):
        deadline = time.monotonic() + 10
        while watching.error is None and time.monotonic() < deadline:
            time.sleep(0.05)
    watching.close()
    assert isinstance(watching.error, SyncTimeoutError)
    assert "the gradients of job 'gpt', turn 7" in str(watching.error)


ASKS: dict[str, Callable[[AskedStore], object]] = {
    "set": lambda store: store.set("key", "value"),
    "get": lambda store: store.get("key"),
    "check": lambda store: store.check("key"),
    "add": lambda store: store.add("key", 1),
    "delete_key": lambda store: store.delete_key("key"),
}


@pytest.mark.parametrize("call", ASKS)
def test_whoever_asks_in_vain_is_seen_to_wait(silent: Silent, call: str) -> None:
    store = AskedStore(silent)  # type: ignore[arg-type]
    watching = Watch(0, 1, silent, asks=store.waits)  # type: ignore[arg-type]
    seen: list[bool] = []

    def look() -> None:
        deadline = time.monotonic() + 10
        while not watching._is_blocked() and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(watching._is_blocked())
        silent.answers.set()

    looking = threading.Thread(target=look)
    looking.start()
    silent.get = lambda key: silent.answers.wait() and b"value"  # type: ignore[attr-defined]
    ASKS[call](store)
    looking.join()
    assert seen == [True]
    assert not watching._is_blocked()
    watching.close()


class SilentHosts:
    """Hosts whose store answers when it is told to: another host waits."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.settled = Settled(1, [1, 2])
        self.meeting = Meeting("h0", 29400, "7", 2, 2)
        self.number, self.store = 1, HashStore()

    def wants_another(self) -> bool:
        self.answers.wait()
        return True

    def join(self) -> Settled:
        self.settled = Settled(2, [1, 2])
        return self.settled


def test_an_agent_is_not_kept_from_its_workers(silent: Silent) -> None:
    hosts = SilentHosts()
    rendezvous = HostsRendezvous(hosts)  # type: ignore[arg-type]
    assert (rendezvous.next_rendezvous().world_size, rendezvous.attempt) == (2, 0)
    assert [rendezvous.num_nodes_waiting() for _ in range(2)] == [0, 0]
    hosts.answers.set()
    deadline = time.monotonic() + 10
    while rendezvous.num_nodes_waiting() == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert rendezvous.num_nodes_waiting() == 1
    rendezvous.next_rendezvous()
    assert rendezvous.attempt == 1
    assert not rendezvous._wanted, "who waited then has joined"
