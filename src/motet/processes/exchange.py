"""What the workers of a run send each other while its jobs live in processes of their own.

Worker 0 decides: which job starts, which order is followed, when a job has ended, when the run stops. The others report
what they see and carry out what worker 0 broadcasts. Every message is kept in the store that all workers share, in the
order in which it was sent. Nothing relies on an order between messages of different workers, so nothing is collective.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator

from torch._C._distributed_c10d import Store

from motet.errors import WorkerFailedError, WorkerLostError
from motet.processes.messages import Command, Message, ToWorker0, pack, unpack

BEAT_SECONDS, LOST_SECONDS = 2.0, 60.0
LOOK_SECONDS, ATTENTIVE_SECONDS = 0.1, 1.0
"""So often a worker looks for messages; each time that it is asked, for so long after the last one that it saw."""


class Exchange:
    """This worker's way to worker 0, and worker 0's to all."""

    def __init__(self, store: Store, worker: int, num_workers: int) -> None:
        self._store = store
        self.worker = worker
        self.num_workers = num_workers
        self._own: deque[str] = deque()
        self._beats, self._beat_at = 0, 0.0
        self._looked_at, self._attentive_until = 0.0, 0.0
        self._seen: dict[int, tuple[str, float]] = {}  # by worker: its last beat, and since when it is that

    def beat(self) -> None:
        """Publish that this worker lives, and check those that have to: `WorkerLostError` names one that does not.

        Worker 0 checks all others, these check worker 0. Torch elastic notices sooner where it has started the workers
        on one machine; nobody else does where machines are lost, or other programs have started the workers.
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

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Publish that this worker lives while the block runs, which is somebody's code and may take long."""
        over = threading.Event()

        def beats() -> None:
            while not over.wait(BEAT_SECONDS):
                self._beats += 1
                with contextlib.suppress(RuntimeError):  # the store is gone: the loop will find out
                    self._store.set(f"beat/{self.worker}", str(self._beats))

        thread = threading.Thread(target=beats, daemon=True, name="motet-beats")
        if self.num_workers > 1:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if self.num_workers > 1:
                thread.join()

    def report(self, message: ToWorker0) -> None:
        """Send a message to worker 0."""
        self._send(0, message)

    def broadcast(self, message: Command) -> None:
        """Send a message to all workers, this one included."""
        for worker in range(self.num_workers):
            self._send(worker, message)

    def send_to_others(self, message: Command) -> None:
        """Send a message to all workers but this one."""
        for worker in range(self.num_workers):
            if worker != self.worker:
                self._send(worker, message)

    def received(self) -> Iterator[tuple[int, Message]]:
        """Yield what has been sent to this worker, with the number of the worker that sent it."""
        while self._own:
            yield self.worker, unpack(self._own.popleft())
        if self.num_workers == 1:
            return
        now = time.monotonic()
        if now - self._looked_at < LOOK_SECONDS and now > self._attentive_until:
            return
        self._looked_at, key = now, f"to/{self.worker}"
        try:
            for _ in range(self._store.queue_len(key)):
                self._attentive_until = now + ATTENTIVE_SECONDS
                sender, _, line = self._store.queue_pop(key).partition(b" ")
                yield int(sender), self._unpacked(sender, line)
        except RuntimeError as error:
            raise _lost(self.worker, error) from error

    def _unpacked(self, sender: bytes, line: bytes) -> Message:
        try:
            return unpack(line)
        except ValueError as error:
            raise WorkerFailedError(
                f"worker {self.worker} does not understand worker {int(sender)}: {error}. Are the same versions of "
                "Motet installed on all hosts?"
            ) from error

    def _send(self, worker: int, message: Message) -> None:
        self._attentive_until = time.monotonic() + ATTENTIVE_SECONDS  # an answer follows, perhaps
        if worker == self.worker:
            self._own.append(pack(message))
            return
        try:
            self._store.queue_push(f"to/{worker}", f"{self.worker} {pack(message)}")
        except RuntimeError as error:
            raise _lost(self.worker, error) from error


def _lost(worker: int, error: RuntimeError) -> WorkerLostError:
    why = str(error).split("Exception raised from")[0].strip()
    return WorkerLostError(f"Worker {worker} lost the store that all workers share: {why}")
