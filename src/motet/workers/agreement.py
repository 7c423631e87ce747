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
from dataclasses import dataclass

from motet.errors import DivergenceError, WorkerFailedError
from motet.workers.group import Pending, Workers

INTERVAL_SECONDS = 0.5
FIRST_INTERVAL_SLOTS = 8
LONGEST_INTERVAL_SLOTS = 10_000

GO_ON, STOP, STOP_NOW = 0, 1, 2
NOTHING = (0.0, 0.0, 0.0, 0.0)  # to tell about files, and about signals

_PERIODIC, _ENDED = 1.0, 2.0
_STATUSES = ("finished", "failed", "pruned", "stopped")
_FAILED, _STOPPED = float(_STATUSES.index("failed")), float(_STATUSES.index("stopped"))


@dataclass(frozen=True)
class Ended:
    """How a job ended on this worker. ``num_left``: buckets that were still under way."""

    job: str
    index: int
    status: str
    num_synced: int
    num_left: int


class Agreements:
    """The agreements of one run, in their order.

    ``stop``: the workers have settled that the run stops (`STOP`), or that it cannot wait any longer (`STOP_NOW`).
    ``clock_seconds``: for how long worker 0 has been running, as all workers have heard: the only clock that decides.
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
        self.files: list[list[float]] = []  # by worker, what `motet.same_files` tells; emptied by who reads it
        self.signals: list[list[float]] = []  # likewise what `motet.intercept.job_signals` tells

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
        tells: tuple[float, float, float, float] = NOTHING,
    ) -> None:
        """Begin a periodic agreement; it is ripe one round later, or ``at_once``. Collective.

        With ``at_once`` one that is under way is settled first (blocks); what was told with it is superseded.

        ``after``: the turn that was just taken, for messages. ``stop``: what this worker was asked (`GO_ON`, `STOP`,
        `STOP_NOW`). ``costs``: what this worker tells of the jobs' costs, as many numbers on every worker; see
        `take_reports`. ``tells``: about files, and about signals, two numbers each.
        """
        if at_once and self._pending is not None:
            self.settle()
        now = time.monotonic()
        since, slots, clock = now - self._since, slot - self._begun_slot, now - self._began
        values = [_PERIODIC, slot, self._signature, float(stop), since, slots, clock, *tells]
        self._since, self._begun_slot, self._ripe_slot = now, slot, slot + (0 if at_once else num_live)
        self._pending = self._workers.start_agreement(values, after=after)
        if costs:  # behind the header, which finds workers that are elsewhere before this one is looked at
            self._pending_costs = self._workers.start_agreement(costs, after=after)

    def ripe(self, slot: int) -> bool:
        """Whether the agreement under way is looked at in this slot; the same on every worker."""
        return self._pending is not None and slot >= self._ripe_slot

    def settle(self) -> None:
        """Block for the agreement under way; raise `DivergenceError` if the workers took different turns."""
        assert self._pending is not None
        pending, self._pending = self._pending, None
        gathered = self._workers.finish_agreement(pending)
        if len({tuple(values[:3]) for values in gathered}) > 1:
            self._raise_if_failed_elsewhere(gathered)
            raise DivergenceError(
                "The workers have taken different turns, or synchronized different gradients in the same turn:\n"
                + "\n".join(
                    f"  worker {worker}: "
                    + (f"slot {values[1]:.0f}" if values[0] == _PERIODIC else "a job has ended there")
                    + f", signature of all turns {int(values[2]):08x}"
                    for worker, values in enumerate(gathered)
                )
                + "\nLook for an `if` on the rank around backward() or no_sync(), or uneven numbers of batches."
            )
        if self._pending_costs is not None:
            costs, self._pending_costs = self._pending_costs, None
            self._reports = self._workers.finish_agreement(costs)
        slowest = max(values[4] for values in gathered)
        slots = gathered[0][5]
        self._interval = max(1, min(LONGEST_INTERVAL_SLOTS, round(slots * INTERVAL_SECONDS / max(slowest, 1e-6))))
        self.stop = max(self.stop, *(int(values[3]) for values in gathered))
        self.clock_seconds = gathered[0][6]
        self.files = [values[7:9] for values in gathered]
        self.signals = [values[9:] for values in gathered]

    def _raise_if_failed_elsewhere(self, gathered: Sequence[Sequence[float]]) -> None:
        """Name a job that has failed on some workers while this one came to its next agreement."""
        failed = [worker for worker, values in enumerate(gathered) if (values[0], values[2]) == (_ENDED, _FAILED)]
        if failed:
            errors = self._workers.watch.failures(within_seconds=1.0)
            raise WorkerFailedError(
                f"Worker {', '.join(map(str, failed))} met an error that the other workers did not meet:"
                + "".join(f"\n{text}" for worker, text in sorted(errors.items()) if worker in failed)
            )

    def take_reports(self) -> list[list[float]] | None:
        """Return what all workers told of their costs, by worker, once; None if nothing new was told."""
        reports, self._reports = self._reports, None
        return reports

    def all_ended_alike(self, ended: Ended, *, stop: int = GO_ON) -> None:
        """Block until every worker reports the same end of the same job; raise `GangError` if one does not.

        ``stop`` is what this worker was asked, as in `begin`. Where any was, failed and stopped are alike.
        """
        if self._pending is not None:
            self.settle()
        values = [
            _ENDED,
            ended.index,
            _STATUSES.index(ended.status),
            ended.num_synced,
            self._signature,
            ended.num_left,
            float(stop),
            *NOTHING,
        ]
        gathered = self._workers.finish_agreement(self._workers.start_agreement(values, ended.job))
        self.stop = max(self.stop, *(int(values[6 if values[0] == _ENDED else 3]) for values in gathered))
        if self.stop and all((values[0], values[2]) in ((_ENDED, _FAILED), (_ENDED, _STOPPED)) for values in gathered):
            gathered = [[*values[:2], _STOPPED, *values[3:]] for values in gathered]
        if len({tuple(values[:6]) for values in gathered}) == 1:
            return
        lines = "\n".join(
            f"  worker {worker}: {_describe_end(values, ended.index)}" for worker, values in enumerate(gathered)
        )
        failed = [worker for worker, values in enumerate(gathered) if values[0] == _ENDED and values[2] == _FAILED]
        if 0 < len(failed) < len(gathered):
            errors = self._workers.watch.failures(within_seconds=1.0)
            raise WorkerFailedError(
                f"Job '{ended.job}' failed on worker {', '.join(map(str, failed))} alone, so it cannot go on:\n{lines}"
                + "".join(f"\n{text}" for worker, text in sorted(errors.items()) if worker in failed)
            )
        if len({tuple(values[:4]) for values in gathered}) == 1:
            raise DivergenceError(
                f"Job '{ended.job}' ended alike, but the workers synchronized different gradients before:\n{lines}\n"
                "Look for an `if` on the rank around backward() or no_sync()."
            )
        raise DivergenceError(
            f"Job '{ended.job}' did not end alike on all workers:\n{lines}\n"
            "Every worker must take the same turns: look for uneven numbers of batches, or an `if` on the rank around "
            "backward() or no_sync()."
        )


def _describe_end(values: list[float], index: int) -> str:
    if values[0] != _ENDED:
        return f"has not ended it (it is at slot {values[1]:.0f})"
    buckets = f", with {values[5]:.0f} buckets under way" if values[5] else ""
    how = f"{_STATUSES[int(values[2])]} after {values[3]:.0f} synchronized turns{buckets}"
    return how if values[1] == index else f"has ended another one, job number {values[1] + 1:.0f} of the run ({how})"
