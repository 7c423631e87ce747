"""What torch elastic's agent asks of several hosts: who takes part in an attempt, and whether another one is wanted."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # it is: torch documents it
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from motet.launcher.hosts import Hosts

# How long the store of several machines may take to answer: where the network is down, it never does.
STORE_SECONDS = 3.0


class HostsRendezvous(RendezvousHandler):
    """The hosts' own rendezvous. All attempts share the store at the endpoint, each under a prefix of its own.

    The agent asks now and then whether hosts wait to join. Where the network is down, that question has no answer for
    long, and meanwhile nobody would see that the workers have ended: it is asked on a thread.
    """

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._first = True
        self._asking: threading.Thread | None = None
        self._wanted, self._asked_in = False, 0

    def get_backend(self) -> str:
        return "motet-hosts"

    @property
    def use_agent_store(self) -> bool:
        return True  # the workers are clients of the hosts' store

    @property
    def attempt(self) -> int:
        """The number of the attempt that is on, from 0: the same on all hosts, whoever has failed how often."""
        settled = self._hosts.settled
        return 0 if settled is None else settled.attempt - 1

    def next_rendezvous(self) -> RendezvousInfo:
        hosts = self._hosts
        settled = hosts.settled if self._first else None
        settled = settled or hosts.join()
        self._first, self._wanted = False, False
        store = PrefixStore(f"attempt/{settled.attempt}", hosts.store)
        address = RendezvousStoreInfo(hosts.meeting.host, hosts.meeting.port)
        return RendezvousInfo(store, settled.members.index(hosts.number), len(settled.members), address)

    def num_nodes_waiting(self) -> int:
        if self._asking is None or not self._asking.is_alive():
            self._asking = _start(self._ask)
        self._asking.join(STORE_SECONDS)
        return int(self._wanted)

    def _ask(self) -> None:
        asked_in = self.attempt
        wanted = self._hosts.wants_another()
        if asked_in == self.attempt:  # not an answer of before the workers were started again
            self._wanted = wanted

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def get_run_id(self) -> str:
        return self._hosts.meeting.run_id

    def shutdown(self) -> bool:
        return True


def _start(call: Callable[[], object]) -> threading.Thread:
    """Call on a thread that holds up nobody's end; a store that has gone with its host is no news for those who ask."""

    def quietly() -> None:
        with contextlib.suppress(Exception):
            call()

    thread = threading.Thread(target=quietly, name="motet-rendezvous", daemon=True)
    thread.start()
    return thread
