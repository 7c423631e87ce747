"""Write a job's checkpoints while other jobs compute.

`Writer` copies a job's state at once and writes it in the background. No collectives: what all workers must agree on is
agreed by whoever calls.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from motet.checkpoints.files import Checkpoints
from motet.checkpoints.manifest import CheckpointPart, Found
from motet.checkpoints.payload import Copies, snapshot
from motet.errors import CheckpointError

NICENESS = 19  # of the writing thread: nearly nothing while all others want the processor; measured in ADR 0016


@dataclass(frozen=True, slots=True)
class Done:
    """Something that a `Writer` has finished: parts written, or a checkpoint committed (``found``), or an error."""

    job: str
    turn: int
    parts: tuple[CheckpointPart, ...] = ()
    found: Found | None = None
    error: CheckpointError | None = None


class Writer:
    """Writes checkpoints on one background thread, in the order in which they were handed over.

    The thread uses no collectives, and holds the interpreter's lock only briefly. It never raises: what went wrong
    comes out of `poll` as a `Done` with an error.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="motet-checkpoints", initializer=_give_way)
        self._tasks: list[Future[Done]] = []
        self._writing: dict[str, Future[Done]] = {}
        self._copies: dict[str, dict[str, Copies]] = {}

    def write(self, checkpoints: Checkpoints, turn: int, payloads: Mapping[str, object]) -> None:
        """Copy ``payloads`` (part name -> payload) now and write them in the background.

        Blocks while the copies are made, and before that until this job's last write has ended: its memory is used
        again. Raises `CheckpointError` for a payload that cannot be saved; then nothing is written.
        """
        job = checkpoints.job
        self.wait_until_written(job)
        kept = self._copies.setdefault(job, {})
        copies = {name: snapshot(payload, kept.setdefault(name, {})) for name, payload in payloads.items()}
        task = self._thread.submit(_write, checkpoints, turn, copies)
        self._writing[job] = task
        self._tasks.append(task)

    def commit(self, checkpoints: Checkpoints, turn: int, parts: Sequence[CheckpointPart]) -> None:
        """Commit in the background, on worker 0, once the parts of all workers are there."""
        self._tasks.append(self._thread.submit(_commit, checkpoints, turn, tuple(parts)))

    def is_writing(self, job: str) -> bool:
        """Return whether this job's last write is still under way."""
        task = self._writing.get(job)
        return task is not None and not task.done()

    def wait_until_written(self, job: str) -> None:
        """Block until this job's last write has ended, well or not; `poll` returns how."""
        task = self._writing.get(job)
        if task is not None:
            wait([task])

    def poll(self) -> list[Done]:
        """Return what has been finished since the last call, in order. Does not block."""
        done: list[Done] = []
        while self._tasks and self._tasks[0].done():
            done.append(self._tasks.pop(0).result())
        return done

    def wait_until_idle(self) -> list[Done]:
        """Block until everything handed over has ended; return it as `poll` does."""
        wait(self._tasks)
        return self.poll()

    def forget(self, job: str) -> None:
        """Free the memory that is kept for a job's copies, once it has ended. Blocks until its write has."""
        self.wait_until_written(job)
        self._copies.pop(job, None)
        self._writing.pop(job, None)

    def close(self) -> list[Done]:
        """Block until everything has ended and end the thread; return what `poll` would."""
        self._thread.shutdown(wait=True)
        self._copies.clear()
        self._writing.clear()
        return self.poll()


def _give_way() -> None:
    """Have this thread use the processor while the others do not: a checkpoint has time, the training has none."""
    if sys.platform == "linux":  # where each thread has a priority of its own
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def _write(checkpoints: Checkpoints, turn: int, payloads: Mapping[str, object]) -> Done:
    try:
        parts = tuple(checkpoints.write_part(turn, name, payload) for name, payload in payloads.items())
        return Done(checkpoints.job, turn, parts)
    except Exception as error:
        return Done(checkpoints.job, turn, error=_as_checkpoint_error(error))


def _commit(checkpoints: Checkpoints, turn: int, parts: tuple[CheckpointPart, ...]) -> Done:
    try:
        return Done(checkpoints.job, turn, parts, found=checkpoints.commit(turn, parts))
    except Exception as error:
        return Done(checkpoints.job, turn, parts, error=_as_checkpoint_error(error))


def _as_checkpoint_error(error: Exception) -> CheckpointError:
    """Return ``error`` as what `Done` carries: nothing may be lost on a thread that nobody joins."""
    if isinstance(error, CheckpointError):
        return error
    wrapped = CheckpointError(f"writing a checkpoint failed: {type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
