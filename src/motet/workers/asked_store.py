"""The store as the run's thread asks it: whether it waits for an answer is known to whoever asks `AskedStore.waits`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from torch._C._distributed_c10d import Store


class AskedStore:
    """A store of which every answer that the thread that made this waits for is known to be waited for.

    It is asked in no other way: an answer that never comes, from a host that the network has left, would hold up the
    worker for ever, and `Watch` would take it for a worker that computes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = threading.get_ident()
        self._waits = False

    def waits(self) -> bool:
        """Whether the run's thread has asked, and has no answer yet."""
        return self._waits

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        of_run = threading.get_ident() == self._thread
        self._waits = self._waits or of_run
        try:
            yield
        finally:
            self._waits = self._waits and not of_run

    def set(self, key: str, value: str) -> None:
        """Set ``key``."""
        with self._asking():
            self._store.set(key, value)

    def get(self, key: str) -> str:
        """Return the value of ``key``, which is there."""
        with self._asking():
            return self._store.get(key).decode()

    def check(self, key: str) -> bool:
        """Whether ``key`` is there."""
        with self._asking():
            return bool(self._store.check([key]))

    def add(self, key: str, amount: int) -> int:
        """Add to the number under ``key``, and return the sum."""
        with self._asking():
            return int(self._store.add(key, amount))

    def delete_key(self, key: str) -> None:
        """Free the store of ``key``."""
        with self._asking():
            self._store.delete_key(key)

    def clone(self) -> Store:
        """Return another connection to the store, whose answers nobody is known to wait for."""
        with self._asking():
            clone: Store = self._store.clone()  # type: ignore[attr-defined]
        return clone
