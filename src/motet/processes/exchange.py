"""What the workers of a run tell each other while its jobs live in processes of their own.

Worker 0 decides: which job starts, which order is followed, when a job has ended, when the run stops. The others tell
it what they see, and do what it says; every message is kept in the store that all workers share, in the order in which
it was sent. No order between what different workers tell is relied on, so nothing is collective here.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from typing import Any

from torch._C._distributed_c10d import Store

from motet.errors import WorkerLostError


class Exchange:
    """This worker's way to worker 0, and worker 0's to all."""

    def __init__(self, store: Store, worker: int, num_workers: int) -> None:
        self._store = store
        self.worker = worker
        self.num_workers = num_workers
        self._own: deque[str] = deque()

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
