"""One job's processes among each other: a part of the gang's store, and turns in which all of them do the same.

A stop, or a checkpoint that a clock asks for, has to come in the same turn on every worker. Worker 0's process decides,
now and then, in a turn that all know beforehand; it tells with each decision in which turn the next one is made, so
that one comes about every `CONSULT_EVERY_SECONDS`. Whoever comes to that turn first waits for its word, without the
job's turn on its worker.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch._C._distributed_c10d import PrefixStore, Store

from motet.errors import GangError, SyncTimeoutError, WorkerLostError, pack_error, unpack_error
from motet.workers.deadlock import WaitsFor

CONSULT_EVERY_SECONDS = 0.5
OFF = "nothing is decided together any more"
LONGEST_CONSULT_SECONDS = 30.0
"""So long may worker 0's process be late at such a turn: then it is not coming, and the two do not count alike."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.0001, 0.004


class NoWatch:
    """Stands for `motet.workers.watch.Watch`, where nobody waits inside of the run's own code for long."""

    def __init__(self) -> None:
        self.error: GangError | None = None

    def at(self, phase: str) -> None:
        """Take no note."""

    @contextlib.contextmanager
    def waiting_for(self, item: WaitsFor) -> Iterator[None]:
        """Take no note."""
        yield


class Peers:
    """The processes of one job, one on each worker, as `motet.checkpoints.coordinator` asks for them."""

    def __init__(self, store: Store, worker: int, num_workers: int, timeout_seconds: float) -> None:
        self.worker = worker
        self.num_workers = num_workers
        self.timeout_seconds = timeout_seconds
        self.watch = NoWatch()
        self._store = store

    def broadcast_from_0(
        self,
        say: Callable[[], str],
        *,
        key: str,
        job: str | None = None,
        turn: int = 0,
        within_seconds: float | None = None,
    ) -> str:
        """Call ``say`` on worker 0 and return its text on every worker; what it raises is raised on every one.

        Worker 0 waits for nobody. The others block until it has come to the same place; `SyncTimeoutError` if it has
        not ``within_seconds`` (by default the run's timeout).
        """
        if self.num_workers == 1:
            return say()
        place = f"broadcast/{key}"
        if self.worker == 0:
            try:
                text = say()
            except BaseException as error:  # whatever it is: the others wait for a word
                with contextlib.suppress(RuntimeError):
                    self._store.set(place, f"-{pack_error(error)}")
                raise
            self._store.set(place, f"+{text}")
            return text
        word = self._wait(place, within_seconds or self.timeout_seconds)
        if word.startswith("-"):
            raise unpack_error(word[1:])
        return word[1:]

    def _wait(self, place: str, within_seconds: float) -> str:
        deadline, pause = time.monotonic() + within_seconds, FIRST_PAUSE_SECONDS
        try:
            while not self._store.check([place]):
                if time.monotonic() > deadline:
                    raise SyncTimeoutError(f"worker 0 has not come to the same place within {within_seconds:.0f} s")
                _sleep(pause)
                pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)
            word: str = self._store.get(place).decode()
            if self._store.add(f"{place}/read", 1) == self.num_workers - 1:
                self._store.delete_key(place)
                self._store.delete_key(f"{place}/read")
        except RuntimeError as error:
            raise WorkerLostError(f"the store that all workers share is gone: {error}") from error
        return word

    def store_for(self, what: str) -> Store:
        """Return a part of the store."""
        return PrefixStore(what, self._store)

    def publish(self, key: str, text: str) -> None:
        """Leave ``text`` where the job's other processes find it."""
        self._store.set(f"word/{key}", text)

    def lookup(self, key: str) -> str | None:
        """Return what was left under ``key``, or None; waits for nobody."""
        if not self._store.check([f"word/{key}"]):
            return None
        text: str = self._store.get(f"word/{key}").decode()
        return text

    def unpublish(self, key: str) -> None:
        """Free the store of a word that has been read."""
        self._store.delete_key(f"word/{key}")


_sleep = time.sleep  # the one that keeps the turn: `motet.processes.waits` replaces the other


@dataclass(frozen=True, slots=True)
class Decision:
    """What worker 0's process decided in one turn: a wish of its worker, and its clock."""

    wish: int
    clock_seconds: float


class Council:
    """Decides with the job's other processes, in the same turns. ``wish``: what worker 0's worker wishes now.

    ``uneven`` is called once it turns out that the workers do not take the same number of turns; from then on nothing
    is decided here any more.
    """

    def __init__(self, peers: Peers, wish: Callable[[], int], uneven: Callable[[], None]) -> None:
        self._peers = peers
        self._wish = wish
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
            ahead = 1 if each <= 0 else int(CONSULT_EVERY_SECONDS / each)
            ahead = max(1, min(ahead, 2 * (turn - last) + 1))  # the first turns tell little of the later ones
            return json.dumps([self._wish(), now, turn + ahead])

        try:
            word = self._peers.broadcast_from_0(
                decide, key=f"turn/{turn}", turn=turn, within_seconds=LONGEST_CONSULT_SECONDS
            )
        except SyncTimeoutError:
            self._off = True
            self._peers.publish(OFF, "")
            self._uneven()
            return None
        if self._off:
            return None
        wish, clock, self._next = json.loads(word)
        return Decision(wish, clock)
