"""What workers send each other: one type for each kind of message; and how all messages are packed into a line of JSON.

Workers report to worker 0 what they see, and worker 0 broadcasts what all of them have to do
(`motet.processes.exchange`). What a job's process and its worker send each other is in `motet.processes.job_messages`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from motet.processes.job_messages import FromJob, FromParent, Start, ToJob
from motet.results import Status

# From any worker to worker 0


@dataclass(frozen=True, slots=True)
class ExitReport:
    """A job's process has ended on the worker. ``status``: what its loop reported, ``""`` if nothing."""

    name: str
    attempt: int
    status: str
    turns: int
    kind: str
    error: str | None
    exit_status: int
    last_on_stderr: str


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """What a turn of each job costs on the worker, once that is known; how many it has taken, and will take."""

    compute_seconds: Mapping[str, float]
    sync_seconds: Mapping[str, float]
    num_bytes: Mapping[str, int]
    turns: Mapping[str, int]
    expected: Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class RoomReport:
    """All jobs of the worker have settled: what is free, what the largest takes, and all there is.

    In main memory, and on a device if jobs compute there. ``num_changes``: how many jobs had been started or concluded.
    """

    num_changes: int
    host: Sequence[float]
    device: Sequence[float] | None


@dataclass(frozen=True, slots=True)
class StopRequest:
    """The worker was asked to stop the run: ``stop`` is one of `motet.workers.messages`' words for it."""

    stop: int


@dataclass(frozen=True, slots=True)
class FailRequest:
    """The job is to be ended as failed; ``stops_run``: and the run with it; ``attempt``: this process of its alone."""

    name: str
    why: str
    stops_run: bool = False
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class ClashReport:
    """On the worker, ``job`` has done to a file what ``verb`` says, and ``others`` have written it."""

    job: str
    verb: str
    path: str
    others: Sequence[str]


# From worker 0 to every worker


@dataclass(frozen=True, slots=True)
class StartJob:
    """Start a job's process, with a seat at the table of turns. ``given``: to a job that no list names."""

    name: str
    seat: int
    attempt: int
    given: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FollowOrder:
    """From now on the jobs take turns so. ``reason``: what is shown of a change.

    ``after``: where the order is followed to the letter, it begins after so many turns in all on every worker.
    """

    turns: Sequence[str]
    reason: str | None = None
    after: int = 0


@dataclass(frozen=True, slots=True)
class EndJob:
    """End a job's process, if it lives."""

    name: str


@dataclass(frozen=True, slots=True)
class Notify:
    """Notify the user of something about a job, or the run."""

    name: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Conclude:
    """The job has ended on all workers. ``failed_on``: a worker on which it failed, if it did not on all of them."""

    name: str
    status: Status
    turns: int
    error: str | None
    failed_on: int | None


@dataclass(frozen=True, slots=True)
class Skip:
    """The job is never started: the run stops."""

    name: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop all jobs."""

    stop: int


@dataclass(frozen=True, slots=True)
class Finish:
    """All jobs have ended: leave the loop."""


# From any worker to all others


@dataclass(frozen=True, slots=True)
class Abandon:
    """A worker has left the run by an error, so nobody can go on."""

    text: str


ToDecider = ExitReport | ProgressReport | RoomReport | StopRequest | FailRequest
ToWorker0 = ToDecider | ClashReport
Command = StartJob | FollowOrder | EndJob | Notify | Conclude | Skip | Stop | Finish | Abandon
Message = Start | FromParent | FromJob | ToJob | ToWorker0 | Command

_TYPES: dict[str, type[Message]] = {each.__name__: each for each in get_args(Message)}


def pack(message: Message) -> str:
    """Return one line of text."""
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    return json.dumps([type(message).__name__, values])


def unpack(text: str | bytes) -> Message:
    """Return the message that was packed into a line. Raises `ValueError` for one that was cut off, or is not ours."""
    try:
        name, values = json.loads(text)
        return _TYPES[name](**values)
    except (KeyError, TypeError) as error:
        raise ValueError(f"this version of Motet does not know the message {str(text[:80])!r}") from error
