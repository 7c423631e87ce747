"""What all workers settle together, rarely: that they took the same turns, that a job ended, whether to stop.

Nothing is agreed per turn: a small collective takes over a millisecond. *Every so many slots* the workers compare a
running signature of their turns and whether anybody was asked to stop; the collective is begun at one slot and
looked at one round later, so that nobody waits for it. How many slots is itself agreed, from the slowest worker's
time, so that it happens about twice a second. *When an order can be determined for the first time*, one is made and
waited for at once: another round in a bad order would cost more. *When a job ends*, all workers must report the same
job, turn and outcome before anybody goes on.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from dataclasses import replace

from motet.errors import DivergenceError, WorkerFailedError
from motet.workers.group import Pending, Workers
from motet.workers.messages import (
    GO_ON,
    NO_FILES,
    NO_SIGNALS,
    FilesReport,
    JobEnd,
    Message,
    Periodic,
    SignalsReport,
    unpack,
)

INTERVAL_SECONDS = 0.5
FIRST_INTERVAL_SLOTS = 8
LONGEST_INTERVAL_SLOTS = 10_000


class Agreements:
    """The agreements of one run, in their order.

    ``stop``: the workers have settled that the run stops (`STOP`), or that it cannot wait any longer (`STOP_NOW`).
    ``clock_seconds``: for how long worker 0 has been running, as all workers have received it: the only clock that
    decides.
    """

    def __init__(self, workers: Workers) -> None:
        self.stop = GO_ON
        self.clock_seconds = 0.0
        self._began = time.monotonic()
        self._workers = workers
        self._signature = 0
        self._interval = FIRST_INTERVAL_SLOTS
        self._begun_slot = 0
        self._ripe_slot = 0
        self._since = time.monotonic()
        self._pending: Pending | None = None
        self._pending_costs: Pending | None = None
        self._reports: list[list[float]] | None = None
        self._files: list[FilesReport] = []  # by worker
        self._signals: list[SignalsReport] = []

    def take_files(self) -> list[FilesReport]:
        """Return what all workers have reported of files since the last time, by worker."""
        reports, self._files = self._files, []
        return reports

    def take_signals(self) -> list[SignalsReport]:
        """Return what all workers have reported of signals since the last time, by worker."""
        reports, self._signals = self._signals, []
        return reports

    def note(self, job: str, turn: int, buckets: int) -> None:
        """Take one synchronized turn into the signature that is compared at the next agreement."""
        self._signature = zlib.crc32(f"{job}/{turn}/{buckets}".encode(), self._signature)

    def due(self, slot: int) -> bool:
        """Whether the next periodic agreement begins at this slot; the same on every worker."""
        return self._pending is None and slot - self._begun_slot >= self._interval

    def begin(
        self,
        slot: int,
        *,
        stop: int,
        num_live: int,
        costs: Sequence[float] = (),
        at_once: bool = False,
        after: str = "",
        files: FilesReport = NO_FILES,
        signals: SignalsReport = NO_SIGNALS,
    ) -> None:
        """Begin a periodic agreement; it is ripe one round later, or ``at_once``. Collective.

        With ``at_once`` one that is under way is settled first (blocks); what was reported with it is superseded.

        ``after``: the turn that was just taken, for messages. ``stop``: what this worker was asked (`GO_ON`, `STOP`,
        `STOP_NOW`). ``costs``: what this worker reports of the jobs' costs, as many numbers on every worker; see
        `take_reports`.
        """
        if at_once and self._pending is not None:
            self.settle()
        now = time.monotonic()
        message = Periodic(
            slot=slot,
            signature=self._signature,
            stop=stop,
            seconds=now - self._since,
            slots=slot - self._begun_slot,
            clock_seconds=now - self._began,
            files=files,
            signals=signals,
        )
        self._since, self._begun_slot, self._ripe_slot = now, slot, slot + (0 if at_once else num_live)
        self._pending = self._workers.start_agreement(message.pack(), after=after)
        if costs:  # behind the message, which finds workers that are elsewhere before this one is looked at
            self._pending_costs = self._workers.start_agreement(costs, after=after)

    def ripe(self, slot: int) -> bool:
        """Whether the agreement under way is looked at in this slot; the same on every worker."""
        return self._pending is not None and slot >= self._ripe_slot

    def settle(self) -> None:
        """Block for the agreement under way; raise `DivergenceError` if the workers took different turns."""
        assert self._pending is not None
        pending, self._pending = self._pending, None
        gathered = self._gather(pending)
        periodic = [message for message in gathered if isinstance(message, Periodic)]
        if len(periodic) < len(gathered) or len({(message.slot, message.signature) for message in periodic}) > 1:
            self._raise_if_failed_elsewhere(gathered)
            raise DivergenceError(
                "The workers have taken different turns, or synchronized different gradients in the same turn:\n"
                + "\n".join(f"  worker {worker}: {message}" for worker, message in enumerate(gathered))
                + "\nLook for an `if` on the rank around backward() or no_sync(), or uneven numbers of batches."
            )
        if self._pending_costs is not None:
            costs, self._pending_costs = self._pending_costs, None
            self._reports = self._workers.finish_agreement(costs)
        slowest = max(message.seconds for message in periodic)
        slots = periodic[0].slots
        self._interval = max(1, min(LONGEST_INTERVAL_SLOTS, round(slots * INTERVAL_SECONDS / max(slowest, 1e-6))))
        self.stop = max(self.stop, *(message.stop for message in periodic))
        self.clock_seconds = periodic[0].clock_seconds
        self._files = [message.files for message in periodic]
        self._signals = [message.signals for message in periodic]

    def _gather(self, pending: Pending) -> list[Message]:
        return [unpack(values) for values in self._workers.finish_agreement(pending)]

    def _raise_if_failed_elsewhere(self, gathered: Sequence[Message]) -> None:
        """Name a job that has failed on some workers while this one came to its next agreement."""
        failed = _failed_on(gathered)
        if failed:
            raise WorkerFailedError(
                f"Worker {', '.join(map(str, failed))} met an error that the other workers did not meet:"
                + self._errors_of(failed)
            )

    def _errors_of(self, failed: Sequence[int]) -> str:
        errors = self._workers.board.failures(within_seconds=1.0)
        return "".join(f"\n{text}" for worker, text in sorted(errors.items()) if worker in failed)

    def take_reports(self) -> list[list[float]] | None:
        """Return what all workers reported of their costs, by worker, once; None if nothing new was reported."""
        reports, self._reports = self._reports, None
        return reports

    def all_ended_alike(self, job: str, end: JobEnd) -> None:
        """Block until every worker reports the same end of the same job; raise `GangError` if one does not.

        Where any worker was asked to stop (``end.stop``), failed and stopped are alike.
        """
        if self._pending is not None:
            self.settle()
        end = replace(end, signature=self._signature)
        gathered = self._gather(self._workers.start_agreement(end.pack(), job))
        self.stop = max(self.stop, *(message.stop for message in gathered))
        ends = [replace(message, stop=GO_ON) for message in gathered if isinstance(message, JobEnd)]
        all_have = len(ends) == len(gathered)
        if self.stop and all_have and all(each.status in ("failed", "stopped") for each in ends):
            ends = [replace(each, status="stopped") for each in ends]
            gathered = [*ends]
        if all_have and len(set(ends)) == 1:
            return
        lines = "\n".join(f"  worker {worker}: {_how(message, end.index)}" for worker, message in enumerate(gathered))
        failed = _failed_on(gathered)
        if 0 < len(failed) < len(gathered):
            raise WorkerFailedError(
                f"Job '{job}' failed on worker {', '.join(map(str, failed))} alone, so it cannot go on:\n{lines}"
                + self._errors_of(failed)
            )
        if all_have and len({each.outcome for each in ends}) == 1:
            raise DivergenceError(
                f"Job '{job}' ended alike, but the workers synchronized different gradients before:\n{lines}\n"
                "Look for an `if` on the rank around backward() or no_sync()."
            )
        raise DivergenceError(
            f"Job '{job}' did not end alike on all workers:\n{lines}\n"
            "Every worker must take the same turns: look for uneven numbers of batches, or an `if` on the rank around "
            "backward() or no_sync()."
        )


def _failed_on(gathered: Sequence[Message]) -> list[int]:
    """Return the workers on which a job has failed."""
    return [worker for worker, end in enumerate(gathered) if isinstance(end, JobEnd) and end.status == "failed"]


def _how(message: Message, index: int) -> str:
    """Say how the job with this number has ended on a worker."""
    if isinstance(message, Periodic):
        return f"has not ended it (it is at slot {message.slot})"
    buckets = f", with {message.num_left} buckets under way" if message.num_left else ""
    how = f"{message.status} after {message.num_synced} synchronized turns{buckets}"
    if message.index == index:
        return how
    return f"has ended another one, job number {message.index + 1} of the run ({how})"
