"""What workers publish about themselves in the store: where each stands, and why one has failed or left.

Never asked for in vain for long: a store that is gone with its host, or does not answer, is as good as an empty one.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from torch._C._distributed_c10d import Store

from motet.workers.deadlock import Position

T = TypeVar("T")
_KEY = "motet/watch"
# What the store is given to answer where something is wrong already: a network that is down never answers.
STORE_SECONDS = 2.0


class Board:
    """This worker's part of the board, and its view of the others'. Without other workers it stays empty."""

    def __init__(self, worker: int, num_workers: int, store: Store | None) -> None:
        self._worker = worker
        self._num_workers = num_workers
        self._store = store

    def own_connection(self) -> None:
        """From now on ask the store over a connection of its own."""
        assert self._store is not None
        self._store = self._store.clone()  # type: ignore[attr-defined]

    def publish_failure(self, text: str) -> None:
        """Publish an error of this worker, so that every other can name it."""
        self._ask(lambda store: store.set(f"{_KEY}/failed/{self._worker}", text), None)

    def publish_exit(self, text: str) -> None:
        """Publish that this worker has left the run, though its process may live on: nobody need wait for it."""
        self._ask(lambda store: store.set(f"{_KEY}/left/{self._worker}", text), None)

    def withdraw_failure(self) -> None:
        """Withdraw what `publish_failure` published: all workers met it alike, so it ended its job only."""
        self._ask(lambda store: store.delete_key(f"{_KEY}/failed/{self._worker}"), False)

    def failures(self, within_seconds: float = 0.0) -> dict[int, str]:
        """Return what other workers published with `publish_failure`, waiting a little for it if asked."""
        return self._published("failed", within_seconds)

    def exits(self) -> dict[int, str]:
        """Return what other workers published with `publish_exit`."""
        return self._published("left")

    def swap(self, mine: Position) -> dict[int, Position]:
        """Publish where this worker stands, and return where all do that have published it.

        Blocks for as long as the store takes, and raises what it raises.
        """
        store = self._store
        assert store is not None
        store.set(f"{_KEY}/position/{self._worker}", json.dumps(mine.to_json()))
        positions = {self._worker: mine}
        for other in range(self._num_workers):
            key = f"{_KEY}/position/{other}"
            if other != self._worker and store.check([key]):
                positions[other] = Position.from_json(json.loads(store.get(key)))
        return positions

    def close(self) -> None:
        """Let go of the store."""
        self._store = None

    def _published(self, kind: str, within_seconds: float = 0.0) -> dict[int, str]:
        deadline = time.monotonic() + within_seconds

        def look(store: Store) -> dict[int, str]:
            found: dict[int, str] = {}
            while not found:
                for other in range(self._num_workers):
                    key = f"{_KEY}/{kind}/{other}"
                    if other != self._worker and store.check([key]):
                        found[other] = store.get(key).decode()
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.05)
            return found

        return self._ask(look, {}, within_seconds)

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
