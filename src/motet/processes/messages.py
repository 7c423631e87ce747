"""What the processes of a run send each other: one type for each kind of message, packed into one line of JSON.

A job's process reports to its worker (`motet.processes.channel`), and so does the warm parent
(`motet.processes.warm_parent`). Workers report to worker 0 what they see, and worker 0 broadcasts what all of them have
to do (`motet.processes.exchange`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args

from motet.config import OnNan
from motet.results import Status

# To the warm parent, and back


@dataclass(frozen=True, slots=True)
class Start:
    """Fork a job's process.

    ``attempt`` counts the processes that this job has had in this run on each worker alike. ``table``, ``wake``,
    ``channel``: open files (`motet.processes.turn_table`, `motet.processes.channel`). ``environment``: what torchrun
    would have set and has not. ``spec`` is the job as data, None for a callable that the parent holds under the job's
    name. ``given``: what a job of a search begins with; ``asks``: the eventfd by which it wakes its worker. ``prefix``
    parts the store of the gang.
    """

    name: str
    seat: int
    attempt: int
    worker: int
    num_workers: int
    table: int
    wake: Sequence[int]
    strict: bool
    channel: int
    prefix: str
    spec: Mapping[str, Any] | None
    given: Mapping[str, Any] | None
    asks: int
    turns: int | None
    cwd: str | None
    env: Mapping[str, str] | None
    environment: Mapping[str, str]
    run_dir: str | None
    job_dir: str | None
    checkpoints: str | None
    seed: int | None
    on_nan: OnNan
    start: str
    timeout_seconds: float
    separate_disks: bool
    own_disk: bool
    share_frozen: bool


@dataclass(frozen=True, slots=True)
class Forked:
    """A job's process has been forked."""

    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    """A job's process has ended. ``status``: its exit status, negative for the signal that ended it."""

    pid: int
    status: int


# From a job's process to its worker


@dataclass(frozen=True, slots=True)
class LogReport:
    """The job has logged values."""

    turn: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LengthReport:
    """The job expects to take so many turns in all."""

    turns: int | None


@dataclass(frozen=True, slots=True)
class ParametersReport:
    """The job has named the parameters that it trains with."""

    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NoticeReport:
    """The user should know something of the job."""

    text: str


@dataclass(frozen=True, slots=True)
class FileReport:
    """The job has done something to a file. ``event``: writes, makes, appends, removes or renames (to ``target``).

    ``changed``: it, or somebody else, has changed the file between ``since`` and ``at``; ``now``: what it is since.
    Moments are the host's monotonic nanoseconds.
    """

    event: str
    path: str
    at: int
    verb: str = ""
    target: str = ""
    since: int = 0
    now: Sequence[Sequence[int] | None] = ()


@dataclass(frozen=True, slots=True)
class DivergenceReport:
    """The job's gradients are not finite any more (``value``: how), or are again (an empty one)."""

    turn: int
    value: str


@dataclass(frozen=True, slots=True)
class SaveReport:
    """A checkpoint of the job is complete, of what it did up to this turn; worker 0's process says so."""

    turn: int


@dataclass(frozen=True, slots=True)
class HoldingsReport:
    """What the job holds after so many turns of this process, as `motet.memory.footprint.Footprint` has it.

    ``device``: what is free, and all there is, where its models are.
    """

    turn: int
    holdings: Mapping[str, Any]
    device: Sequence[int] | None


@dataclass(frozen=True, slots=True)
class ResumeReport:
    """The job has gone on from a checkpoint, after so many synchronized turns."""

    turns: int


@dataclass(frozen=True, slots=True)
class EndReport:
    """How the job's loop ended in one process; its exit status is still to come. ``turns``: synchronized ones."""

    status: str
    turns: int
    kind: str = ""
    error: str | None = None
    num_ddp: int = 0
    result: str | None = None  # the file that holds it


@dataclass(frozen=True, slots=True)
class Question:
    """The job asks its worker something (`motet.processes.search`), and waits for the `Answer` of the same number."""

    number: int
    content: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the worker answers a job."""

    number: int
    content: str


@dataclass(frozen=True, slots=True)
class FrozenClaim:
    """The job holds frozen weights: so many bytes by each name, and those that have to stay where they are."""

    claims: Mapping[str, int]
    fixed: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class FrozenUse:
    """The job shares these weights now; those it holds no more, or by itself."""

    shares: Sequence[str]
    owns: Sequence[str]


@dataclass(frozen=True, slots=True)
class FrozenFailure:
    """The job could not write the file that it was asked for."""

    error: str


@dataclass(frozen=True, slots=True)
class FrozenFile:
    """Weights lie at these places of a file, which comes with the message; from the one who wrote it, and to others."""

    number: int
    places: Mapping[str, int]


# From the worker to a job's process


@dataclass(frozen=True, slots=True)
class FrozenAnswer:
    """Write these weights to a file of this number; or none of them."""

    number: int
    write: Sequence[str]


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
    """The job has ended on all workers. ``alone``: it failed on some workers only."""

    name: str
    status: Status
    turns: int
    error: str | None
    alone: bool


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


FromParent = Forked | Exited
FrozenReport = FrozenClaim | FrozenUse | FrozenFailure | FrozenFile
FromJob = (
    LogReport
    | LengthReport
    | ParametersReport
    | NoticeReport
    | FileReport
    | DivergenceReport
    | SaveReport
    | HoldingsReport
    | ResumeReport
    | EndReport
    | Question
    | FrozenReport
)
ToJob = Answer | FrozenFile | FrozenAnswer
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
