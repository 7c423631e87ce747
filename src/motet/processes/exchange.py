"""What the workers of a run tell each other while its jobs live in processes of their own.

Worker 0 decides: which job starts, which order is followed, when a job has ended, when the run stops. The others tell
it what they see, and do what it says; every message is kept in the store that all workers share, in the order in which
it was sent. No order between what different workers tell is relied on, so nothing is collective here.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch._C._distributed_c10d import Store

from motet.errors import WorkerLostError

BEAT_SECONDS, LOST_SECONDS = 2.0, 60.0


class Exchange:
    """This worker's way to worker 0, and worker 0's to all."""

    def __init__(self, store: Store, worker: int, num_workers: int) -> None:
        self._store = store
        self.worker = worker
        self.num_workers = num_workers
        self._own: deque[str] = deque()
        self._beats, self._beat_at = 0, 0.0
        self._seen: dict[int, tuple[str, float]] = {}  # by worker: its last beat, and since when it is that

    def beat(self) -> None:
        """Say that this worker is there, and look for those that have to be: `WorkerLostError` names one that is not.

        Worker 0 looks for all others, these for worker 0. Where torch elastic has started them on one machine it
        notices sooner; nobody else does where machines are lost, or other programs have started the workers.
        """
        now = time.monotonic()
        if self.num_workers == 1 or now - self._beat_at < BEAT_SECONDS:
            return
        if now - self._beat_at > 3 * BEAT_SECONDS:
            self._seen.clear()  # this worker itself stood still, and so may the others have
        self._beat_at, self._beats = now, self._beats + 1
        try:
            self._store.set(f"beat/{self.worker}", str(self._beats))
            for worker in range(1, self.num_workers) if self.worker == 0 else (0,):
                key = f"beat/{worker}"
                beats = self._store.get(key).decode() if self._store.check([key]) else ""
                before, since = self._seen.get(worker, ("", now))
                self._seen[worker] = (beats, since if beats == before else now)
                if beats == before and now - since > LOST_SECONDS:
                    raise WorkerLostError(
                        f"worker {worker} has not been heard of for {LOST_SECONDS:.0f} s: it was killed, or its "
                        "machine, or the network between them, is lost"
                    )
        except RuntimeError as error:
            raise _lost(self.worker, error) from error

    def tell_0(self, what: str, **fields: Any) -> None:
        """Tell worker 0."""
        self._send(0, json.dumps({"what": what, "from": self.worker, **fields}))

    def tell_all(self, what: str, **fields: Any) -> None:
        """Tell all workers, this one included; worker 0 only."""
        text = json.dumps({"what": what, "from": self.worker, **fields})
        for worker in range(self.num_workers):
            self._send(worker, text)

    def tell_others(self, what: str, **fields: Any) -> None:
        """Tell all other workers, whoever this is."""
        text = json.dumps({"what": what, "from": self.worker, **fields})
        for worker in range(self.num_workers):
            if worker != self.worker:
                self._send(worker, text)

    def received(self) -> Iterator[dict[str, Any]]:
        """Yield what has been told to this worker."""
        while self._own:
            yield json.loads(self._own.popleft())
        if self.num_workers == 1:
            return
        key = f"to/{self.worker}"
        try:
            for _ in range(self._store.queue_len(key)):
                yield json.loads(self._store.queue_pop(key))
        except RuntimeError as error:
            raise _lost(self.worker, error) from error

    def _send(self, worker: int, text: str) -> None:
        if worker == self.worker:
            self._own.append(text)
            return
        try:
            self._store.queue_push(f"to/{worker}", text)
        except RuntimeError as error:
            raise _lost(self.worker, error) from error


def _lost(worker: int, error: RuntimeError) -> WorkerLostError:
    why = str(error).split("Exception raised from")[0].strip()
    return WorkerLostError(f"Worker {worker} lost the store that all workers share: {why}")
