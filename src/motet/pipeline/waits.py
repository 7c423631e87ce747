"""Where a worker waits for its gradients, or its device: in slices, so that every wait can end with an error."""

from __future__ import annotations

from collections.abc import Callable

from motet.coroutines import RunningJob, Turns
from motet.errors import GangError
from motet.gradients.transfer import InFlightBucket
from motet.pipeline.job_end import BYPASSES
from motet.workers import Workers
from motet.workers.deadlock import WaitsFor


class PipelineWaits:
    """All waits of the pipeline on this worker. ``notify`` notifies the user of something about a job, once."""

    def __init__(self, workers: Workers, turns: Turns, notify: Callable[[str, str], None]) -> None:
        self._workers = workers
        self._turns = turns
        self._notify = notify
        self._last_synced = ("", 0)
        self._error: GangError | None = None

    def for_gradients(self, job: str, turn: int) -> Callable[[InFlightBucket], None]:
        """Return what blocks until a bucket of this turn has arrived."""
        item = WaitsFor("gradients", job, turn)

        def wait(bucket: InFlightBucket) -> None:
            try:
                self._workers.wait(item, bucket.done, bucket.wait)
            except GangError as error:
                self.lost(error)
                raise

        return wait

    def for_device(self, arrived: Callable[[], bool]) -> None:
        """Block until the device has done what the host is too far ahead of, or what is to be reported."""
        try:
            self._workers.wait_arrived(WaitsFor("gradients", *self._last_synced), arrived)
        except GangError as error:
            self.lost(error)
            raise

    def synced(self, job: str, turn: int) -> None:
        """Note that the gradients of a turn have arrived."""
        self._last_synced = (job, turn)

    def drain(self, job: RunningJob) -> None:
        """Block for buckets that left in a turn that then failed; their memory may be freed afterwards."""
        if job.gradients.in_flight:
            job.gradients.drain(self.for_gradients(job.name, job.turn))

    def lost(self, error: GangError) -> None:
        """Keep what ends the run: the wait may be inside a job's turn, whose loop may catch it."""
        self._error = error

    def raise_if_lost(self) -> None:
        """Raise what has ended the run in a turn that is over now."""
        if self._error is not None:
            raise self._error

    def exposed(self, bypassing: bool) -> None:
        """A synchronization is about to block inside backward(); the watch must know, as it cannot be sliced."""
        job = self._turns.current
        self._workers.watch.block(job is not None)
        if bypassing and job is not None:
            self._notify(job.name, BYPASSES)

    def unblocked(self) -> None:
        """The backward with such a synchronization has returned."""
        self._workers.watch.block(False)
