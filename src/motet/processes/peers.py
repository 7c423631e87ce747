"""One job's processes among each other: a part of the gang's store that no other job uses."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from torch._C._distributed_c10d import PrefixStore, Store

from motet.errors import GangError, SyncTimeoutError, WorkerLostError, pack_error, unpack_error
from motet.timing.clocks import Waited
from motet.workers.deadlock import WaitsFor
from motet.workers.sockets import longest_pause_seconds

FIRST_PAUSE_SECONDS = 0.0001


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
        make_text: Callable[[], str],
        *,
        key: str,
        job: str | None = None,
        turn: int = 0,
        within_seconds: float | None = None,
    ) -> str:
        """Call ``make_text`` on worker 0 and return its text on every worker; what it raises is raised on every one.

        Worker 0 waits for nobody. The others block until it has come to the same place; `SyncTimeoutError` if it has
        not ``within_seconds`` (by default the run's timeout).
        """
        if self.num_workers == 1:
            return make_text()
        place = f"broadcast/{key}"
        if self.worker == 0:
            try:
                text = make_text()
            except BaseException as error:  # whatever it is: the others wait for an answer
                with contextlib.suppress(RuntimeError):
                    self._store.set(place, f"-{pack_error(error)}")
                raise
            self._store.set(place, f"+{text}")
            return text
        answer = self._wait(place, within_seconds or self.timeout_seconds)
        if answer.startswith("-"):
            raise unpack_error(answer[1:])
        return answer[1:]

    def _wait(self, place: str, within_seconds: float) -> str:
        waited, pause = Waited(), FIRST_PAUSE_SECONDS
        try:
            while not self._store.check([place]):
                if waited.seconds > within_seconds:
                    raise SyncTimeoutError(f"worker 0 has not come to the same place within {within_seconds:.0f} s")
                _sleep(pause)
                pause = min(1.5 * pause, longest_pause_seconds(self.num_workers))
            answer: str = self._store.get(place).decode()
            if self._store.add(f"{place}/read", 1) == self.num_workers - 1:
                self._store.delete_key(place)
                self._store.delete_key(f"{place}/read")
        except RuntimeError as error:
            raise WorkerLostError(f"the store that all workers share is gone: {error}") from error
        return answer

    def store_for(self, what: str) -> Store:
        """Return a part of the store."""
        return PrefixStore(what, self._store)

    def publish(self, key: str, text: str) -> None:
        """Publish ``text`` for the job's other processes."""
        self._store.set(f"published/{key}", text)

    def lookup(self, key: str) -> str | None:
        """Return what was published under ``key``, or None; waits for nobody."""
        if not self._store.check([f"published/{key}"]):
            return None
        text: str = self._store.get(f"published/{key}").decode()
        return text

    def unpublish(self, key: str) -> None:
        """Free the store of a text that has been read."""
        self._store.delete_key(f"published/{key}")


_sleep = time.sleep  # the one that keeps the turn: `motet.processes.waits` replaces the other
