"""Whoever saves together: what checkpoints ask of the workers of a run, and of the job whose loop they serve."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from torch._C._distributed_c10d import Store

from motet.errors import GangError, SyncTimeoutError
from motet.handle import JobHandle
from motet.workers.deadlock import WaitsFor

PAUSE_SECONDS = 0.005


class RunWatch(Protocol):
    """Who knows whether the run is lost, and what this worker does."""

    error: GangError | None

    def at(self, phase: str) -> None:
        """Note what the main thread does from now on."""

    def waiting_for(self, item: WaitsFor) -> AbstractContextManager[None]:
        """Note what the main thread waits for inside the block."""


class SavingGang(Protocol):
    """The workers, or one job's processes on them: `motet.workers.Workers`, `motet.processes.peers.Peers`."""

    worker: int
    num_workers: int
    timeout_seconds: float

    @property
    def watch(self) -> RunWatch:
        """This worker's watch."""

    def publish(self, key: str, text: str) -> None:
        """Publish ``text`` for the others."""

    def lookup(self, key: str) -> str | None:
        """Return what was published under ``key``, None if nothing was."""

    def unpublish(self, key: str) -> None:
        """Free the store of it."""

    def store_for(self, what: str) -> Store:
        """Return a part of the store for what is long, with a connection of its own."""

    def broadcast_from_0(self, make_text: Callable[[], str], *, key: str, job: str | None = None, turn: int = 0) -> str:
        """Return what ``make_text`` returns on worker 0, on all of them."""


def wait_for_published(workers: SavingGang, key: str) -> str:
    """Return what another worker publishes under ``key``, once it has; for what each of them does soon."""
    deadline = time.monotonic() + workers.timeout_seconds
    while (text := workers.lookup(key)) is None:
        if workers.watch.error is not None:
            raise workers.watch.error
        if time.monotonic() > deadline:
            within = f"within {workers.timeout_seconds:g} s"
            raise SyncTimeoutError(f"another worker did not publish {key} {within}; raise --timeout if it needs longer")
        time.sleep(PAUSE_SECONDS)
    workers.unpublish(key)
    return text


class SavedJob(Protocol):
    """The job whose loop registers what it wants to have saved, wherever it lives."""

    name: str

    @property
    def handle(self) -> JobHandle:
        """Its handle."""

    @property
    def num_synced(self) -> int:
        """Its synchronized turns."""

    def go_on_after(self, turns: int) -> None:
        """Note that the job goes on from a checkpoint, after so many synchronized turns."""

    def call_before_end(self, call: Callable[[object], None]) -> None:
        """Have ``call`` be called with what the loop has returned, before the job has ended."""

    @property
    def num_backwards(self) -> int:
        """Its backwards."""

    @property
    def turn(self) -> int:
        """Its turn that runs."""
