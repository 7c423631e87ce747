"""What can be observed of a run: frozen records, and the protocol of those who observe.

Every record is made on the worker that it describes. Times are ``time.perf_counter()`` seconds of that worker;
`RunStarted` carries the wall clock at the same instant, so that several workers' records can be laid side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The first record of a run."""

    time: float
    unix_time: float
    worker: int
    num_workers: int
    jobs: tuple[str, ...]
    order: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job was admitted; its first turn begins next. ``turns`` is its expected length, if known."""

    time: float
    job: str
    turns: int | None


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """A job had its turn from ``begin`` to ``time``; turns count from 1. ``synchronizing``: gradients are in flight.

    It computed, but for ``waited_seconds`` in which it waited for gradients within its turn, and ``startup_seconds`` in
    which it started up: until its first backward begins, a job imports and builds.
    """

    time: float
    job: str
    turn: int
    begin: float
    synchronizing: bool
    waited_seconds: float = 0.0
    startup_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class SyncEnded:
    """A turn's gradients have arrived on this worker.

    They were in flight from ``launched`` (the first bucket left) to ``completed`` (the last one was summed). The first
    bucket was ready at ``ready``, and queued for the link until it left (None: it left at once). The worker had nothing
    else to do from ``wait_begin`` to ``time``; ``hidden_seconds`` is the part of that time during which it computed
    something. ``link_seconds`` is the turn's share of the time during which anything was in flight (None: not
    measured).
    """

    time: float
    job: str
    turn: int
    launched: float
    completed: float
    wait_begin: float
    hidden_seconds: float
    num_bytes: int
    num_collectives: int
    ready: float | None = None
    link_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class MetricsLogged:
    """A job called ``motet.current_job().log(...)``."""

    time: float
    job: str
    turn: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ParametersSet:
    """What a job was made with, as far as it is known by now: the arguments of its call, the choices of a search."""

    time: float
    job: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class MemoryMeasured:
    """What a job holds on this worker, as far as was seen by now. ``activations_bytes`` is None on a CPU."""

    time: float
    job: str
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int | None


@dataclass(frozen=True, slots=True)
class Diverged:
    """A value of a job has become NaN or infinite, or (``value`` is empty) finite again.

    ``name``: of what the job logs, or ``gradients``. ``since_turn``: from which turn on it was never finite.
    """

    time: float
    job: str
    name: str
    value: str
    since_turn: int | None


@dataclass(frozen=True, slots=True)
class JobSaved:
    """A checkpoint of a job is complete: what it did up to ``turn`` is not lost any more. On worker 0 only."""

    time: float
    job: str
    turn: int


@dataclass(frozen=True, slots=True)
class OrderChanged:
    """From here on the turns follow ``order``, on every worker alike."""

    time: float
    order: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know, said once. ``job`` is None where it concerns the whole run."""

    time: float
    job: str | None
    text: str


@dataclass(frozen=True, slots=True)
class JobEnded:
    """All workers agree that a job ended. ``error`` is a traceback's text, or None.

    ``failed_on``: the worker on which alone it failed, if it was one alone.
    """

    time: float
    job: str
    status: str
    turns: int
    error: str | None
    failed_on: int | None = None


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last record of a run."""

    time: float
    wall_seconds: float


Event = (
    RunStarted
    | JobStarted
    | TurnEnded
    | SyncEnded
    | MetricsLogged
    | Diverged
    | ParametersSet
    | MemoryMeasured
    | JobSaved
    | OrderChanged
    | Notice
    | JobEnded
    | RunEnded
)


class Observer(Protocol):
    """Whoever wants to know. Called on the main thread between turns: be quick.

    An observer that raises is reported once and left out; the training goes on.
    One that changes nothing global (random generators, streams, environment) may have an attribute
    ``changes_nothing_global = True``: the jobs' turns are then a little cheaper.
    """

    def observe(self, event: Event) -> None:
        """Take note of ``event``."""
