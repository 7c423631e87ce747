"""Every error that a user can meet.

::

    MotetError
    ├── UsageError            bad input: the command, a jobs file, an argument; nothing was started (status 2)
    ├── UnsupportedError      a job asks for something that cannot be pipelined (yet); says what to use instead
    ├── CheckpointError       a checkpoint or run directory is damaged, of another version or of another job
    ├── NonFiniteError        a job's synchronized gradients hold NaN or infinity (only with --on-nan raise)
    └── GangError             something went wrong between workers; the run ends on all of them
        ├── DivergenceError   workers took different turns or synchronized different gradients
        ├── WorkerFailedError a worker met an error that the others did not meet
        ├── WorkerLostError   a worker died or cannot be reached
        ├── SyncTimeoutError  gradients did not arrive within the timeout, on every worker alike
        └── SameFileError     a job writes what another job has written (only with --on-same-file error)

A message says the cause, what was given, and the remedy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType


class MotetError(Exception):
    """Root of all errors that Motet raises on purpose. ``from_worker_0``: it arose there, and was sent here."""

    from_worker_0 = False


class UsageError(MotetError):
    """The command, a jobs file or an argument is wrong; nothing was started."""


class UnsupportedError(MotetError):
    """A job asks for something that cannot be pipelined; the message says what to use instead."""


class CheckpointError(MotetError):
    """A checkpoint or a run directory is damaged, of another version, or belongs to another job."""


class NonFiniteError(MotetError):
    """A job's synchronized gradients hold NaN or infinity; raised out of its ``backward()``, on all workers alike."""


class GangError(MotetError):
    """Something went wrong between the workers: the run ends on all of them.

    ``turns``: how many turns of each job this worker had sent off by then, as far as is known.
    """

    turns: Mapping[str, int] = MappingProxyType({})


class DivergenceError(GangError):
    """The workers took different turns, or synchronized different gradients in the same turn."""


class WorkerFailedError(GangError):
    """One worker met an error that the others did not meet."""


class WorkerLostError(GangError):
    """A worker died or cannot be reached."""


class SameFileError(GangError):
    """A job writes a file that another job of the run has written, and the run was asked to end at that."""


class SyncTimeoutError(GangError):
    """A synchronization did not complete within the timeout."""


def pack_error(error: BaseException) -> str:
    """Return what `unpack_error` makes an error of, on another worker."""
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == __name__]
    text = str(error) if names else f"{type(error).__name__}: {error}"
    return json.dumps({"type": names[0] if names else None, "text": text})


def unpack_error(packed: str) -> MotetError:
    """Return an error like the one that worker 0 packed: of its type if that is Motet's, else one that names it."""
    data = json.loads(packed)
    kind = WorkerFailedError if data["type"] is None else globals()[data["type"]]
    prefix = "" if data["type"] else "Worker 0 met an error that the other workers did not meet:\n"
    error: MotetError = kind(prefix + data["text"])
    error.from_worker_0 = True
    return error
