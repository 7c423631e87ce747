"""Decisions that all processes of a job carry out in the same turn.

A stop, or a checkpoint that a clock asks for, has to come in the same turn on every worker. Worker 0's process decides,
now and then, in a turn that all know beforehand; with each decision it says in which turn the next one is made, so that
one comes about every `consult_every_seconds`. Whoever comes to that turn first waits for the decision, without the
job's turn on its worker.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from motet.errors import SyncTimeoutError
from motet.processes.peers import Peers
from motet.workers.sockets import consult_every_seconds

OFF = "nothing is decided together any more"
LONGEST_CONSULT_SECONDS = 30.0
"""So long may worker 0's process be late at such a turn: then it is not coming, and the two do not count alike."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What worker 0's process decided in one turn: what its worker asked of the job, and its clock."""

    stop_request: int
    clock_seconds: float


class Council:
    """Decides with the job's other processes, in the same turns. ``stop_request``: what worker 0's worker asks now.

    ``uneven`` is called once it turns out that the workers do not take the same number of turns; from then on nothing
    is decided here any more.
    """

    def __init__(self, peers: Peers, stop_request: Callable[[], int], uneven: Callable[[], None]) -> None:
        self._peers = peers
        self._stop_request = stop_request
        self._uneven = uneven
        self._off = False
        self._next = 1
        self._since = (0, time.monotonic())

    def consult(self, turn: int) -> Decision | None:
        """Return the decision that is due in ``turn``, if one is. Blocks for worker 0's process, in all others."""
        if turn < self._next or self._off:
            return None

        def decide() -> str:
            if self._peers.num_workers > 1 and self._peers.lookup(OFF) is not None:
                self._off = True  # the others have given up deciding with this process
            now = time.monotonic()
            last, since = self._since
            self._since = (turn, now)
            each = (now - since) / max(turn - last, 1)
            ahead = 1 if each <= 0 else int(consult_every_seconds(self._peers.num_workers) / each)
            ahead = max(1, min(ahead, 2 * (turn - last) + 1))  # the first turns say little about the later ones
            return json.dumps([self._stop_request(), now, turn + ahead])

        try:
            decided = self._peers.broadcast_from_0(
                decide, key=f"turn/{turn}", turn=turn, within_seconds=LONGEST_CONSULT_SECONDS
            )
        except SyncTimeoutError:
            self._off = True
            self._peers.publish(OFF, "")
            self._uneven()
            return None
        if self._off:
            return None
        stop_request, clock, self._next = json.loads(decided)
        return Decision(stop_request, clock)
