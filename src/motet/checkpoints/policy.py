"""What a run does so that nothing is lost: where checkpoints go, and who keeps what came of jobs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from motet.results import JobResult


@dataclass(frozen=True)
class Disks:
    """Whether some host does not see worker 0's directory, and whether this worker's ``own`` host does not."""

    separate: bool = False
    own: bool = False


ONE_DISK = Disks()


@dataclass(frozen=True)
class Endings:
    """What worker 0 does with what loops return, before the checkpoints of their ends are written.

    From such a checkpoint a loop cannot end again as it did: what follows its last turn has been done (random numbers
    drawn, weights averaged). So what it returned is kept first, and counts once the checkpoint is whole.
    ``keep(job, turns, result)``; ``forget(job)``: it begins or goes on, and will end anew.
    """

    keep: Callable[[str, int, object], None] = lambda job, turns, result: None
    forget: Callable[[str], None] = lambda job: None


@dataclass(frozen=True)
class RecoveryPolicy:
    """What a run does so that nothing is lost.

    ``checkpoints``: where they go. ``keep_result`` keeps what came of a job, for a later start of the run;
    ``record_failure`` is called with a job that failed on this worker, ``withdraw_failure`` when it has turned out to
    have failed on all of them. ``starting_again``: jobs that have run before and left no checkpoint to go on from.
    """

    checkpoints: Path | None = None
    disks: Disks = ONE_DISK
    endings: Endings = Endings()
    keep_result: Callable[[str, JobResult], None] = lambda job, result: None
    record_failure: Callable[[str, int, str], None] = lambda job, turn, error: None
    withdraw_failure: Callable[[str], None] = lambda job: None
    starting_again: Collection[str] = ()
    run_dir: Path | None = None
