"""What a job's process, its worker and the warm parent send each other: one type for each kind of message.

A job's process reports to its worker and is answered (`motet.processes.channel`); so does the warm parent
(`motet.processes.warm_parent`). Packed and unpacked by `motet.processes.messages`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motet.config import OnNan

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
    """The job could not write what it was asked for, or not use what it was offered."""

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
