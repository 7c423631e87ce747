"""What workers report to each other in an agreement: one type for each kind of message, with its own `pack`.

An agreement gathers equally many numbers from every worker. While one worker comes to its next periodic agreement,
another may report the end of a job: so both kinds are of one length, and the first number tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

GO_ON, STOP, STOP_NOW = 0, 1, 2
STATUSES = ("finished", "failed", "pruned", "stopped")

_PERIODIC, _JOB_END = 1.0, 2.0
LENGTH = 11


class FilesReport(NamedTuple):
    """Of `motet.same_files`: the job that is to be stopped, from 1 (0: none), and how many clashes were published."""

    job_to_stop: float = 0.0
    num_published: float = 0.0


class SignalsReport(NamedTuple):
    """Of `motet.intercept.job_signals`, with a bit for each job: where a signal is pending, and where it was before."""

    pending: float = 0.0
    pending_before: float = 0.0


NO_FILES, NO_SIGNALS = FilesReport(), SignalsReport()


@dataclass(frozen=True, slots=True)
class Periodic:
    """A worker has come to its next periodic agreement.

    ``signature``: of all turns; ``stop``: what this worker was asked (`GO_ON`, `STOP`, `STOP_NOW`); ``seconds`` and
    ``slots``: since its last agreement began; ``clock_seconds``: for how long it has been running.
    """

    slot: int
    signature: int
    stop: int = GO_ON
    seconds: float = 0.0
    slots: int = 0
    clock_seconds: float = 0.0
    files: FilesReport = NO_FILES
    signals: SignalsReport = NO_SIGNALS

    def pack(self) -> list[float]:
        """Return `LENGTH` numbers."""
        head = [_PERIODIC, float(self.slot), float(self.signature), float(self.stop)]
        return [*head, self.seconds, float(self.slots), self.clock_seconds, *self.files, *self.signals]

    def __str__(self) -> str:
        return f"slot {self.slot}, signature of all turns {self.signature:08x}"


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A job has ended on a worker. ``index``: its number in the run; ``num_left``: buckets still in flight."""

    index: int
    status: str
    num_synced: int
    num_left: int
    signature: int = 0
    stop: int = GO_ON

    def pack(self) -> list[float]:
        """Return `LENGTH` numbers."""
        status = float(STATUSES.index(self.status))
        values = [_JOB_END, float(self.index), status, float(self.num_synced), float(self.num_left)]
        values += [float(self.signature), float(self.stop)]
        return values + [0.0] * (LENGTH - len(values))

    @property
    def outcome(self) -> tuple[int, str, int]:
        """Which job has ended, how, and after how many turns."""
        return self.index, self.status, self.num_synced

    def __str__(self) -> str:
        return f"a job has ended there, signature of all turns {self.signature:08x}"


Message = Periodic | JobEnd


def unpack(values: Sequence[float]) -> Message:
    """Return the message that was packed into these numbers."""
    assert len(values) == LENGTH, values
    if values[0] == _JOB_END:
        _, index, status, num_synced, num_left, signature, stop, *_ = values
        return JobEnd(int(index), STATUSES[int(status)], int(num_synced), int(num_left), int(signature), int(stop))
    assert values[0] == _PERIODIC, values
    _, slot, signature, stop, seconds, slots, clock, *rest = values
    return Periodic(
        slot=int(slot),
        signature=int(signature),
        stop=int(stop),
        seconds=seconds,
        slots=int(slots),
        clock_seconds=clock,
        files=FilesReport(*rest[:2]),
        signals=SignalsReport(*rest[2:]),
    )
