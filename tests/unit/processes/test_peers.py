"""What worker 0's process publishes for a job's other processes reaches them, and its errors do."""

from __future__ import annotations

import pytest
from torch._C._distributed_c10d import HashStore, Store

from motet.errors import GangError, SyncTimeoutError
from motet.processes.peers import Peers


def peers_of(store: Store, worker: int, num_workers: int, timeout_seconds: float = 60.0) -> Peers:
    return Peers(store, worker, num_workers, timeout_seconds)


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
