"""`RunConfig`: what was asked of a run, besides its jobs. Every option is written here, and nowhere else.

The command makes its options of these fields, ``run.json`` holds them, and every worker, `motet.run`, `motet.launch`
and the pipeline take the whole. To add an option, add a field here, its name and type to `RunOptions` (or
`LaunchOptions`), and a row to the reference; a test fails while one of them is missing.

``run.json`` is of a frozen format (``format`` 1): its keys are the fields' names, values are plain JSON. A run without
a key was begun by a version that had no such option, and goes on with its default. What is no longer read the same way
takes another format.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, TypedDict, get_args

from motet.errors import CheckpointError, UsageError
from motet.option_kinds import (
    FOLDER,
    JOBS_OR_AUTO,
    NAME,
    NAMES,
    ORDER,
    SECONDS,
    SEED,
    SWITCH,
    WORKERS,
    flag_of,
    one_of,
    option,
    refusal,
    whole,
)
from motet.schedule.order import parse_order
from motet.suggest import did_you_mean, shown

AtOnce = int | Literal["auto"]
Sync = Literal["all-reduce", "aggregate"]
Aggregators = Sequence[int] | Literal["dedicated"]
Compress = Literal["bf16", "none"]
House = Literal["together", "process"]
OffloadWhat = Literal["nothing", "idle"]
ShareFrozen = Literal["on", "off"]
Buffers = Literal["overlapped", "blocking"]
OnNan = Literal["ignore", "stop-job", "raise"]
OnSameFile = Literal["warn", "stop-job", "error"]
Mode = Literal["min", "max"]
_BEGIN_AND_RESUME = ("run", "resume")
_AT_ONCE_SECONDS = 1e-3
TIMEOUT_SECONDS = 1800.0  # unless the user says otherwise


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What was asked of a run, besides its jobs: the options of ``motet run``, which the reference explains.

    `motet.run` and `motet.launch` take the fields as keywords, or a whole ``config``. Raises `UsageError` for what no
    run could be asked.
    """

    order: str | Sequence[str] | None = option(
        None, ORDER, "one round of turns, or round-robin (default: Motet chooses)", metavar="A,B,A,C"
    )
    house: House = option(
        "together",
        one_of(*get_args(House)),
        "process: each job in a process of its own on each worker, with torch's own DDP; together: all in one",
    )
    strict_order: bool = option(
        False, SWITCH, "with --house process: follow the order to the letter, also where the next job is not ready"
    )
    sync: Sync = option("all-reduce", one_of(*get_args(Sync)), "how gradients are averaged")
    aggregators: Aggregators | None = option(
        None,
        WORKERS,
        "with --sync aggregate: the workers that sum (default: each in turn); or dedicated: the last worker sums, and "
        "does nothing else",
        metavar="0,2",
    )
    compress: Compress | None = option(
        None,
        one_of(*get_args(Compress)),
        "bf16: gradients are sent as bfloat16, at half the bytes and less precision",
    )
    at_once: AtOnce | None = option(
        None,
        JOBS_OR_AUTO,
        "at most N jobs at once, or auto: as many as fit in memory; the others wait",
        metavar="N",
    )
    offload: OffloadWhat = option(
        "nothing",
        one_of(*get_args(OffloadWhat)),
        "idle: what a job holds on a device is kept in the host's memory while others compute",
    )
    share_frozen: ShareFrozen = option(
        "on",
        one_of(*get_args(ShareFrozen)),
        "off: each job holds its frozen weights itself, also where other jobs of its worker hold equal ones",
    )
    buffers: Buffers = option(
        "overlapped",
        one_of(*get_args(Buffers)),
        "blocking: BatchNorm statistics and other buffers are broadcast before each forward, as under plain DDP",
    )
    job_cwd: str | None = option(
        None, FOLDER, "each job works in this folder: {job_dir}, or runs/{name}", metavar="DIR"
    )
    seed: int | None = option(None, SEED, "the jobs' random numbers follow from it (default: new)", metavar="N")
    verbose: bool = option(
        False, SWITCH, "show what all workers print, not worker 0 alone, and changes of the order", of=_BEGIN_AND_RESUME
    )
    quiet: bool = option(False, SWITCH, "only errors and the results", of=_BEGIN_AND_RESUME)
    trackers: Sequence[str] = option(
        (), NAMES, "write a run for each job to this tracker; repeatable", flag="tracker", metavar="NAME"
    )
    metric: str | None = option(None, NAME, "compare jobs by this value (default: a loss that all log)", metavar="NAME")
    mode: Mode | None = option(None, one_of(*get_args(Mode)), "whether less or more of it is better")
    stop_after_seconds: float | None = option(
        None,
        SECONDS,
        "stop the run after, say, 90m or 2h: resumable, status 3",
        flag="stop-after",
        metavar="TIME",
        of=_BEGIN_AND_RESUME,
    )
    timeout_seconds: float = option(
        TIMEOUT_SECONDS,
        SECONDS,
        f"end the run when nothing has moved for so long (default: {TIMEOUT_SECONDS:.0f})",
        flag="timeout",
        metavar="SECONDS",
        of=_BEGIN_AND_RESUME,
    )
    only: Sequence[str] | None = option(
        None, NAMES, "go on with this job; the others wait; repeatable", metavar="JOB", of=("resume",)
    )
    on_nan: OnNan = option(
        "ignore",
        one_of(*get_args(OnNan)),
        "when synchronized gradients hold NaN or inf (default: ignore)",
        of=_BEGIN_AND_RESUME,
    )
    on_same_file: OnSameFile = option(
        "warn", one_of(*get_args(OnSameFile)), "when two jobs write one file (default: warn)", of=_BEGIN_AND_RESUME
    )
    max_job_failures: int = option(
        1,
        whole(0, 999_999),
        "how many more tries a job gets that failed on one worker alone (default: 1)",
        metavar="N",
        of=_BEGIN_AND_RESUME,
    )

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            try:
                accepted = field.metadata["kind"].accept(value)
            except ValueError:
                raise UsageError(refusal(field, f"{field.name} ({flag_of(field)})", value)) from None
            object.__setattr__(self, field.name, accepted)
        if self.verbose and self.quiet:
            raise UsageError("verbose and quiet (--verbose, --quiet) contradict each other: give one of them")
        if self.house == "process":
            self._check_processes()
        if self.aggregators is not None and self.sync != "aggregate":
            raise UsageError('aggregators go with sync="aggregate" (--sync aggregate); an all-reduce has none')

    def _check_processes(self) -> None:
        """Refuse what only jobs that live together can do."""
        for name, plain in (("sync", "all-reduce"), ("compress", None), ("offload", "nothing")):
            if (value := getattr(self, name)) not in (plain, "none"):
                raise UsageError(
                    f"--{name} {value} goes with --house together: a job in a process of its own synchronizes by "
                    "torch's own DDP"
                )

    @classmethod
    def of(cls, options: Mapping[str, Any], caller: str, base: Self | None = None, *, known: type) -> Self:
        """Return ``base`` with the options that ``caller`` was given as keywords; `known` says which it takes."""
        for name in options:
            if name not in known.__annotations__:
                near = did_you_mean(name, known.__annotations__)
                raise TypeError(f"{caller}() got an unexpected keyword argument {name!r}{near}")
        return dataclasses.replace(base or cls(), **options)

    def for_jobs(self, names: Sequence[str]) -> Self:
        """Return the same, with the order as turns of these jobs; `UsageError` where that does not fit them."""
        return self if self.order is None else dataclasses.replace(self, order=parse_order(self.order, names).turns)

    def to_json(self) -> dict[str, Any]:
        """Return what ``run.json`` says. When the run is to stop stands there as a moment: it outlives restarts."""
        moment = None if self.stop_after_seconds is None else time.time() + self.stop_after_seconds
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        del plain["stop_after_seconds"]
        return plain | {"stop_at_unix_time": moment}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], place: object = "run.json") -> Self:
        """Return what `to_json` gave, or 0.1 wrote; other keys are not looked at. `CheckpointError` if damaged."""
        found = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        moment = data.get("stop_at_unix_time")
        try:
            if moment is not None:
                found["stop_after_seconds"] = max(SECONDS.accept(moment) - time.time(), _AT_ONCE_SECONDS)
            return cls(**found)
        except ValueError:
            raise CheckpointError(f"{place} is damaged: stop_at_unix_time is {shown(moment)}") from None
        except UsageError as error:
            raise CheckpointError(f"{place} is damaged: {error}") from None


DEFAULTS = RunConfig()


class RunOptions(TypedDict, total=False):
    """The options that `motet.run` takes as keywords; see `RunConfig`."""

    order: str | Sequence[str] | None
    house: House
    strict_order: bool
    sync: Sync
    aggregators: Aggregators | None
    compress: Compress | None
    at_once: AtOnce | None
    offload: OffloadWhat
    share_frozen: ShareFrozen
    buffers: Buffers
    seed: int | None
    verbose: bool
    stop_after_seconds: float | None
    timeout_seconds: float
    on_nan: OnNan
    on_same_file: OnSameFile
    max_job_failures: int
    only: Sequence[str] | None


class LaunchOptions(RunOptions, total=False):
    """The options that `motet.launch` takes as keywords: all that the command has; see `RunConfig`."""

    job_cwd: str | None
    quiet: bool
    trackers: Sequence[str]
    metric: str | None
    mode: Mode | None
