"""The workers of a run whose jobs live in processes of their own: how they find each other, and part."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is: torch documents it
from torch.distributed.rendezvous import rendezvous

from motet.processes.exchange import Exchange
from motet.processes.peers import Peers
from motet.started_by import LOOPBACK
from motet.workers.sockets import VARIABLE, check_loopback, jobs_connect_lazily

JOIN_SECONDS, LEAVE_SECONDS = 600.0, 10.0
_num_runs = 0


@dataclass(frozen=True)
class ProcessGang:
    """This worker among the others. ``prefix`` parts the store; ``environment``: with what jobs find the store."""

    worker: int
    num_workers: int
    prefix: str
    environment: Mapping[str, str]
    peers: Peers
    exchange: Exchange

    @classmethod
    def join(cls, timeout_seconds: float) -> ProcessGang:
        """Join the other workers of this run. Blocks until worker 0 serves the store."""
        global _num_runs
        _num_runs += 1
        worker, num_workers = int(os.environ.get("RANK", "0")), cls.size()
        prefix = f"motet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{_num_runs}"
        shared, environment = _shared_store()
        store = PrefixStore(prefix, shared)
        peers = Peers(PrefixStore("run", store), worker, num_workers, timeout_seconds)
        # Alike everywhere: a mesh and what connects when it is used do not find each other.
        lazily = peers.broadcast_from_0(lambda: "1" if jobs_connect_lazily(1, num_workers) else "0", key="connects")
        if lazily == "1" or VARIABLE in os.environ:
            environment[VARIABLE] = lazily
        exchange = Exchange(PrefixStore("exchange", store), worker, num_workers)
        return cls(worker, num_workers, prefix, environment, peers, exchange)

    @staticmethod
    def size() -> int:
        """Return how many workers there are, before they have joined."""
        return int(os.environ.get("WORLD_SIZE", "1"))

    def leave(self) -> None:
        """Keep the store's host until all workers have read their last message."""
        if self.num_workers == 1:
            return
        self.peers.publish(f"left/{self.worker}", "")
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.worker == 0 and time.monotonic() < deadline:
            if all(self.peers.lookup(f"left/{worker}") is not None for worker in range(self.num_workers)):
                return
            time.sleep(0.005)


def _shared_store() -> tuple[Store, dict[str, str]]:
    """Return the store that all workers of the gang share, and what jobs need in their environment to find it."""
    served = {"TORCHELASTIC_USE_AGENT_STORE": "True"}  # by an agent, or by worker 0: not by a job
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        check_loopback()
        listener = socket.create_server((LOOPBACK, 0))
        port = listener.getsockname()[1]
        # The store owns the descriptor from here on. Left to itself it would listen on all interfaces.
        store = TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
        here = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": LOOPBACK}
        return store, {**here, **served, "MASTER_PORT": str(port)}
    shared: Store = next(rendezvous("env://", timeout=timedelta(seconds=JOIN_SECONDS)))[0]
    return shared, served
