"""Whose state is offloaded to the host's memory, and how long the way there and back takes. Nothing is measured here.

The rule (`is_offloaded`) is the one that a run follows (`motet.memory.admission`). A replay adds what
`motet.memory.offload` does on a device, copy by copy (ADR 22):

- One side stream carries everything, in the order in which it was asked for, and in both directions.
- A job's state leaves behind its turn. The next job's returns from the moment at which this job's turn begins.
- A turn begins when its job's state is back, whatever else it has to wait for.
- Copies take nothing of the compute unit, and every byte takes as long as every other. Left out: that in its first
  turn a job has no optimizer state yet, and that pinned memory is asked for when it is needed for the first time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from motet.errors import UsageError

FEWEST_JOBS = 3
"""One computes and one is on its way back: only the third can rest."""

TYPICAL_HOST_LINK = 12e9
"""Bytes per second that a PCIe 3.0 x16 slot gives from pinned memory, about; what is taken where nobody said more."""

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def is_offloaded(job: str, following: str | None, num_live: int) -> bool:
    """Return whether a job is offloaded after its turn. ``following`` is next, ``num_live`` jobs are live."""
    return num_live >= FEWEST_JOBS and following != job


def parse_host_link(text: str) -> float:
    """Return the bytes per second of a link between a device and the host's memory, as in ``12GB/s``.

    Raises UsageError where it cannot be read.
    """
    match = re.fullmatch(r"([0-9.]+)\s*([kmgt]?)b/s", text.strip().lower())
    try:
        if match is None:
            raise ValueError
        number, unit = match.groups()
        rate = float(number) * _UNITS[unit]
        if rate <= 0:
            raise ValueError
        return rate
    except ValueError:
        raise UsageError(
            f"The link to the host {text!r} cannot be read. Give bytes per second, such as 12GB/s or 800MB/s."
        ) from None


@dataclass(frozen=True, slots=True)
class OffloadModel:
    """What each job has to move, in bytes, and how many bytes move in a second, in either direction."""

    state_bytes: Mapping[str, float]
    bytes_per_second: float

    def __post_init__(self) -> None:
        if not self.bytes_per_second > 0 or any(not size >= 0 for size in self.state_bytes.values()):
            raise ValueError(f"a link needs a rate above 0, and sizes are 0 or more; got {self}")

    def copy_seconds(self, job: str) -> float:
        """Return how long one way takes."""
        return self.state_bytes.get(job, 0.0) / self.bytes_per_second


class CopyStream:
    """The copies of one worker. ``now`` never goes back from one call to the next."""

    def __init__(self, offload: OffloadModel) -> None:
        self._offload = offload
        self._busy_until = 0.0
        self._away: dict[str, float | None] = {}  # jobs that rest, and when each is back, if it has been asked for

    def put_away(self, job: str, now: float) -> None:
        """Begin to move a job's state to the host, behind all copies so far."""
        assert job not in self._away
        self._copy(job, now)
        self._away[job] = None

    def begin_return(self, job: str | None, now: float) -> None:
        """Begin to bring a job's state back, if it is offloaded."""
        if job in self._away and self._away[job] is None:
            self._away[job] = self._copy(job, now)

    def back_at(self, job: str, now: float) -> float:
        """Return when a job that is to have its turn next has its state; begin to bring it back, if nobody has."""
        if job not in self._away:
            return now
        self.begin_return(job, now)
        at = self._away[job]
        assert at is not None
        return at

    def returned(self, job: str) -> None:
        """Note that a job's turn begins."""
        self._away.pop(job, None)

    def _copy(self, job: str, now: float) -> float:
        self._busy_until = max(self._busy_until, now) + self._offload.copy_seconds(job)
        return self._busy_until
