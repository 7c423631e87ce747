"""What workers publish in the store: where each stands, why one has failed or left, and worker 0's verdict.

While something stands still, every worker publishes where it stands and looks for one verdict; worker 0 alone reads
where all stand, at once. So a look costs the store a few messages a worker, however many workers there are.

Of the rest nothing is asked for in vain for long: a store that is gone with its host, or does not answer, is as good as
an empty one.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from torch._C._distributed_c10d import Store

from motet.errors import GangError, pack_error, unpack_error
from motet.workers.deadlock import Position

T = TypeVar("T")
_KEY = "motet/watch"
MOST_READ = 8  # failures, or exits: the latest
# What the store is given to answer where something is wrong already: a network that is down never answers.
STORE_SECONDS = 2.0


class Board:
    """This worker's part of the board, and its view of the others'. Without other workers it stays empty."""

    def __init__(self, worker: int, num_workers: int, store: Store | None) -> None:
        self._worker = worker
        self._num_workers = num_workers
        self._store = store
        self._is_there = False
        self._failures: list[int] = []  # the numbers of those that this worker has published

    def own_connection(self) -> None:
        """From now on ask the store over a connection of its own."""
        assert self._store is not None
        self._store = self._store.clone()  # type: ignore[attr-defined]

    def publish_failure(self, text: str) -> None:
        """Publish an error of this worker, so that every other can name it."""
        if number := self._ask(lambda store: self._publish(store, "failed", text), 0):
            self._failures.append(number)

    def publish_exit(self, text: str) -> None:
        """Publish that this worker has left the run, though its process may live on: nobody need wait for it."""
        self._ask(lambda store: self._publish(store, "left", text), 0)

    def withdraw_failure(self) -> None:
        """Withdraw what `publish_failure` published: all workers met it alike, so it ended its job only."""
        numbers, self._failures = self._failures, []

        def withdraw(store: Store) -> None:
            for number in numbers:
                store.set(f"{_KEY}/failed/{number}", json.dumps([self._worker, None]))

        self._ask(withdraw, None)

    def failures(self, within_seconds: float = 0.0) -> dict[int, str]:
        """Return what other workers published with `publish_failure`, waiting a little for it if asked."""
        return self._published("failed", within_seconds)

    def exits(self) -> dict[int, str]:
        """Return what other workers published with `publish_exit`."""
        return self._published("left")

    # Where workers stand. These block for as long as the store takes, and raise what it raises.

    def join(self, mine: Position) -> None:
        """Publish where this worker stands, and the first time that it is there."""
        self._open().set(_place(self._worker), json.dumps(mine.to_json()))
        if not self._is_there:
            self._open().add(f"{_KEY}/here", 1)
            self._is_there = True

    def positions(self) -> dict[int, Position]:
        """Return where those workers stand that have stood still by now; none before all workers are there."""
        store = self._open()
        if store.add(f"{_KEY}/here", 0) < self._num_workers:
            return {}
        published = store.multi_get([_place(worker) for worker in range(self._num_workers)])
        positions = (Position.from_json(json.loads(text)) for text in published)
        return {position.worker: position for position in positions if position.beat}

    def last_positions(self) -> dict[int, Position]:
        """Return what `positions` does, and nothing where the store does not answer soon."""
        return self._ask(lambda store: self.positions(), {})

    def publish_verdict(self, error: GangError, *, for_all: bool) -> None:
        """Publish what ends the run: for all workers, or for those that wait for others."""
        self._open().set(f"{_KEY}/verdict", json.dumps([pack_error(error), for_all]))

    def verdict(self, *, waits: bool) -> GangError | None:
        """Return what ends the run for a worker that ``waits`` for others, or does not; None if nothing does."""
        store = self._open()
        if not store.check([f"{_KEY}/verdict"]):
            return None
        packed, for_all = json.loads(store.get(f"{_KEY}/verdict"))
        if not (waits or for_all):
            return None
        error = unpack_error(packed)
        assert isinstance(error, GangError)
        error.from_worker_0 = False  # which may be in its own code still, and never report
        return error

    def close(self) -> None:
        """Let go of the store."""
        self._store = None

    def _open(self) -> Store:
        assert self._store is not None
        return self._store

    def _publish(self, store: Store, kind: str, text: str) -> int:
        number = int(store.add(f"{_KEY}/{kind}", 1))
        store.set(f"{_KEY}/{kind}/{number}", json.dumps([self._worker, text]))
        return number

    def _published(self, kind: str, within_seconds: float = 0.0) -> dict[int, str]:
        deadline = time.monotonic() + within_seconds

        def look(store: Store) -> dict[int, str]:
            while not (found := self._latest(store, kind)) and time.monotonic() < deadline:
                time.sleep(0.05)
            return found

        return self._ask(look, {}, within_seconds)

    def _latest(self, store: Store, kind: str) -> dict[int, str]:
        last = int(store.add(f"{_KEY}/{kind}", 0))
        found: dict[int, str] = {}
        for number in range(max(1, last - MOST_READ + 1), last + 1):
            if store.check([f"{_KEY}/{kind}/{number}"]):
                worker, text = json.loads(store.get(f"{_KEY}/{kind}/{number}"))
                if text is not None and worker != self._worker:
                    found[worker] = text
        return found

    def _ask(self, call: Callable[[Store], T], otherwise: T, within_seconds: float = 0.0) -> T:
        """Ask the store something, and return ``otherwise`` if it is gone with its host or does not answer in time."""
        store, answers = self._store, [otherwise]
        if store is None or self._num_workers == 1:
            return otherwise

        def ask() -> None:
            with contextlib.suppress(Exception):
                answers.append(call(store))

        thread = threading.Thread(target=ask, name="motet-watch-asks", daemon=True)
        thread.start()
        thread.join(within_seconds + STORE_SECONDS)
        return answers[-1]


def _place(worker: int) -> str:
    return f"{_KEY}/position/{worker}"
