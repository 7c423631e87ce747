"""DataLoader workers while jobs take turns: a stop that reaches every process does not end them, nor others' turns.

Batch systems send SIGTERM, or SIGINT, to every process of a step at once. torch lets a DataLoader worker end then, and
raises an error in whatever code the main thread is in when it sees that: in another job's turn, or in Motet's own. Here
a worker that was forked during a run stays until its DataLoader is done with it or its parent is gone, so that the job
can still come to a save point; and one that has died all the same is found by its own DataLoader, at its next batch.
"""

from __future__ import annotations

import mmap
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_job_over: mmap.mmap | None = None  # shared with the workers that are forked from now on


def follow_job() -> None:
    """Share with the workers that are forked from now on whether the job of this process is over."""
    global _job_over
    _job_over = mmap.mmap(-1, 1)


def job_over() -> None:
    """From now on SIGTERM ends the workers of this process's job: so multiprocessing ends them, and waits for it."""
    if _job_over is not None:
        _job_over[0] = 1


def begin(original: Callable[[], None]) -> None:
    """Set a worker's signal handlers; called in the new process, by the function that is all its life."""
    original()
    parent, done, over = os.getppid(), sys._getframe(1).f_locals.get("done_event"), _job_over

    def on_stop(number: int, frame: FrameType | None) -> None:
        # What torch sends it, if it does not end by itself, comes after `done_event`.
        if os.getppid() != parent or (done is not None and done.is_set()) or (over is not None and over[0]):
            os._exit(0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_stop)  # not SIG_IGN: processes that it starts would inherit that


def leave_to_loaders(*ignored: Any) -> None:
    """Raise nothing where a DataLoader worker has died, in place of torch's handler of SIGCHLD."""
