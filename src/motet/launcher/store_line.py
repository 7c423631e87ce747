"""A line to the store of several hosts: a network that is down must not hold up whoever asks, nor keep signals away."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is: torch documents it

from motet.errors import WorkerLostError

T = TypeVar("T")
ANSWER_SECONDS = 20.0
CONNECT_SECONDS = 10.0
SLICE_SECONDS = 0.2


class StoreLine:
    """Asks a store on a thread of its own: its client blocks in C++, where no signal is handled."""

    def __init__(self, host: str, port: int, listener: socket.socket | None = None) -> None:
        self.where = f"{host}:{port}"
        self._questions: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._answer, name="motet-store-line", daemon=True).start()
        timeout = timedelta(seconds=CONNECT_SECONDS)
        fd = None if listener is None else listener.detach()  # the store owns it from here on
        self.store = self.ask(
            lambda: TCPStore(
                host, port, is_master=fd is not None, wait_for_workers=False, timeout=timeout, master_listen_fd=fd
            ),
            CONNECT_SECONDS + 5.0,
        )

    def ask(self, call: Callable[[], T], seconds: float = ANSWER_SECONDS) -> T:
        """Return what ``call`` returns, or raise what it raises; `WorkerLostError` if it does not come back in time."""
        found: list[T] = []
        wrong: list[Exception] = []
        done = threading.Event()

        def answer() -> None:
            try:
                found.append(call())
            except Exception as error:  # raised below
                wrong.append(error)
            finally:
                done.set()

        self._questions.put(answer)
        deadline = time.monotonic() + seconds
        while not done.wait(SLICE_SECONDS):  # in slices: signals are handled in between
            if time.monotonic() > deadline:
                raise WorkerLostError(f"{self.where} does not answer: the network is down, or its host")
        if wrong:
            first = str(wrong[0]).strip().split("\n")[0]
            raise WorkerLostError(f"{self.where} cannot be reached any more: {first}") from None
        return found[0]

    def get(self, key: str) -> str | None:
        """Return what stands under a key, None if nothing does."""

        def look() -> str | None:
            return self.store.get(key).decode() if self.store.check([key]) else None

        return self.ask(look)

    def set(self, key: str, text: str) -> None:
        """Write under a key."""
        self.ask(lambda: self.store.set(key, text))

    def add(self, key: str, number: int) -> int:
        """Add to a counter, and return it."""
        return self.ask(lambda: int(self.store.add(key, number)))

    def advance(self, key: str, before: str, after: str) -> None:
        """Write ``after`` under a key if it holds ``before``, else leave it: somebody else was first."""
        self.ask(lambda: self.store.compare_set(key, before, after))

    def close(self) -> None:
        """End the thread; the store lives as long as anybody refers to it."""
        self._questions.put(None)

    def _answer(self) -> None:
        while (question := self._questions.get()) is not None:
            question()
