"""Where a run stands when it begins again: which jobs have ended, which are left out, which start anew.

What came of a job is kept as soon as all workers agree on it, in ``jobs/<name>/ended.json``: such a job is not run
again. A job that failed on one worker alone stops the gang, and nobody else's failure is meant to be its end; so each
worker that fails leaves a file in ``jobs/<name>/attempts/``, and a job with too many of them is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, get_args

from motet.checkpoints.policy import Endings
from motet.config import RunConfig
from motet.errors import CheckpointError, UsageError
from motet.jobs import JobSpec
from motet.results import JobResult, Status
from motet.run_dir import RunDir, make_folder, write_whole
from motet.suggest import did_you_mean

FORMAT = 1


@dataclass(frozen=True)
class ResumeState:
    """Where a run stands. ``ended``: jobs that are not run again, and what came of them (``stopped``: not asked for).

    ``starting_again``: jobs that have run before and have no checkpoint to go on from. ``left_out``: those of
    ``ended`` that failed on one worker alone too often.
    """

    ended: Mapping[str, JobResult] = field(default_factory=dict)
    starting_again: Collection[str] = ()
    left_out: Collection[str] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values, to send to the other workers."""
        return {
            "ended": {name: dict(vars(result)) for name, result in self.ended.items()},
            "starting_again": sorted(self.starting_again),
            "left_out": sorted(self.left_out),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ResumeState:
        """Rebuild what `to_json` gave."""
        ended = {name: JobResult(**fields) for name, fields in data["ended"].items()}
        return cls(ended, frozenset(data["starting_again"]), frozenset(data["left_out"]))


def inspect(
    run_dir: RunDir,
    names: Sequence[str],
    *,
    max_job_failures: int,
    only: Collection[str] | None = None,
) -> ResumeState:
    """Return where the run stands; with ``only``, other jobs than these count as stopped.

    Raises `CheckpointError` if a file that says so is damaged, `UsageError` if ``only`` names no job of the run.
    """
    ended: dict[str, JobResult] = {}
    left_out, starting_again = set(), set()
    for name in only or ():
        if name not in names:
            raise UsageError(f"the run in {run_dir.path} has no job {name!r}{did_you_mean(name, names)}")
    for name in names:
        if (result := ended_result(run_dir, name)) is not None:
            ended[name] = result
        elif (charged := attempts(run_dir, name)) and len({each.start for each in charged}) > max_job_failures:
            ended[name] = _left_out(charged)
            left_out.add(name)
        elif only is not None and name not in only:
            ended[name] = _not_asked_for(run_dir, name)
        elif _has_begun(run_dir, name) and not _has_checkpoint(run_dir, name):
            starting_again.add(name)
    return ResumeState(ended, starting_again, left_out)


def inspect_on_0(
    broadcast_from_0: Callable[[Callable[[], str]], str], run_dir: RunDir, names: Sequence[str], config: RunConfig
) -> ResumeState:
    """Return where the run stands, as worker 0 finds it, on all workers. Collective."""

    def look() -> str:
        resume_state = inspect(run_dir, names, max_job_failures=config.max_job_failures, only=config.only)
        for name in resume_state.left_out:
            keep_result(run_dir, name, resume_state.ended[name], None)
        return json.dumps(resume_state.to_json())

    return ResumeState.from_json(json.loads(broadcast_from_0(look)))


def keep_or_notify(
    run_dir: RunDir,
    name: str,
    result: JobResult,
    save: Callable[[object, IO[bytes]], None],
    notify_user: Callable[[str], None],
) -> None:
    """Keep what came of a job for a later start of the run, unless it goes on then; a full disk is reported."""
    if result.status == "stopped":
        return
    try:
        keep_result(run_dir, name, result, save)
    except OSError as error:
        notify_user(f"job '{name}' has ended, but that could not be kept for a later start of the run: {error}")


def keep_result(
    run_dir: RunDir,
    name: str,
    result: JobResult,
    save: Callable[[object, IO[bytes]], None] | None,
    counts_with_turn: int | None = None,
) -> None:
    """Keep what came of a job. ``save`` writes a result that is not JSON to a file, as in `RunDir.write_results`.

    ``counts_with_turn``: it counts once there is a checkpoint of that turn.
    """
    fields = {**vars(result), "result": run_dir.plain(name, result.result, save)}
    content = {"format": FORMAT, "job": name, **fields}
    if counts_with_turn is not None:
        content["counts_with_turn"] = counts_with_turn
    run_dir.job_dir(name)
    write_whole(_ended_path(run_dir, name), json.dumps(content, indent=2, allow_nan=False) + "\n")


def endings(run_dir: RunDir, save: Callable[[object, IO[bytes]], None]) -> Endings:
    """Return how what loops return is kept here, before the checkpoints of their ends are."""

    def keep(name: str, turns: int, result: object) -> None:
        with contextlib.suppress(Exception):  # a full disk; whatever a user's object raises when it is saved
            keep_result(run_dir, name, JobResult("finished", turns, 0.0, 0.0, 0.0, result), save, turns)

    def forget(name: str) -> None:
        with contextlib.suppress(OSError):
            _ended_path(run_dir, name).unlink()

    return Endings(keep, forget)


def ended_result(run_dir: RunDir, name: str) -> JobResult | None:
    """Return what came of a job that is not to run again, else None; `CheckpointError` if the file is damaged."""
    path = _ended_path(run_dir, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ValueError("it is of another format version")
        if (job := content.pop("job")) != name:
            raise ValueError(f"it is of job {job!r}")
        if saved_turn(run_dir, name) < content.pop("counts_with_turn", 0):
            return None
        return sound(JobResult(**content))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error}. To have the job go on from its last checkpoint, remove the file"
        ) from None


def sound(result: JobResult) -> JobResult:
    """Return ``result`` if its fields are of their types; raise ValueError if not."""
    numbers = (result.compute_seconds, result.sync_seconds, result.hidden_seconds)
    if (
        result.status not in get_args(Status)
        or type(result.turns) is not int
        or not all(type(number) in (int, float) for number in numbers)
        or not isinstance(result.error, str | None)
        or not isinstance(result.failed_on, int | None)
    ):
        raise ValueError("it does not say what came of a job")
    return result


@dataclass(frozen=True)
class Attempt:
    """A job failed on ``worker`` alone. ``start`` names one start of the gang."""

    start: str
    worker: int
    turn: int
    error: str
    unix_time: float


def record_failure(run_dir: RunDir, name: str, start: str, worker: int, turn: int, error: str) -> None:
    """Note that a job has failed on this worker; OSError (a full disk) is the caller's."""
    keep_attempt(run_dir, name, Attempt(start, worker, turn, error, time.time()))


def keep_attempt(run_dir: RunDir, name: str, attempt: Attempt) -> None:
    """Write down an attempt, here or on another host."""
    folder = _attempts_dir(run_dir, name)
    make_folder(folder)
    write_whole(folder / f"{attempt.start}-{attempt.worker}.json", json.dumps(vars(attempt), indent=2) + "\n")


def forget_attempts(run_dir: RunDir, name: str) -> None:
    """Forget what is charged to a job here: another host counts it."""
    shutil.rmtree(_attempts_dir(run_dir, name), ignore_errors=True)


def withdraw_failure(run_dir: RunDir, name: str, start: str, worker: int) -> None:
    """Undo `record_failure`: the job has failed on all workers, and that ends it in good order."""
    with contextlib.suppress(OSError):
        (_attempts_dir(run_dir, name) / f"{start}-{worker}.json").unlink()


def attempts(run_dir: RunDir, name: str) -> list[Attempt]:
    """Return how often a job failed on one worker alone, the latest last. What cannot be read does not count."""
    found = []
    try:
        paths = sorted(_attempts_dir(run_dir, name).glob("*.json"))
    except OSError:
        return []
    for path in paths:
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            attempt = Attempt(**json.loads(path.read_text(encoding="utf-8")))
            if isinstance(attempt.unix_time, float | int) and isinstance(attempt.start, str):
                found.append(attempt)
    return sorted(found, key=lambda attempt: attempt.unix_time)


def begin_or_go_on(
    place: Path | str | None, description: Mapping[str, Any], *, fresh: bool = False, seed: int | None = None
) -> tuple[RunDir, bool]:
    """Begin a run in ``place``, or find there the very run that is described; return whether it is to go on.

    The very run: the same jobs by content, and the same ``seed`` where one is asked for. With ``fresh`` it begins anew,
    in a directory beside one that holds a run. Raises `UsageError` where the directory holds another run.
    """
    if (found := check_place(place, description, fresh=fresh, seed=seed)) is not None:
        return found, True
    if place is not None and fresh and Path(place, "run.json").exists():
        place = beside(Path(place))
    return RunDir.create(place, description), False


def check_place(
    place: Path | str | None, description: Mapping[str, Any], *, fresh: bool = False, seed: int | None = None
) -> RunDir | None:
    """Return the run in ``place`` that is to go on, or None if one is to begin; raises as `begin_or_go_on` does."""
    if place is None or fresh or not Path(place, "run.json").exists():
        return None
    remedy = "give a new one with --run-dir, or begin beside it with --fresh"
    try:
        found = RunDir.open(place)
        job_names(found)
    except CheckpointError as error:
        raise UsageError(f"the run directory {place} holds another run, or its remains: {error}; {remedy}") from None
    if (unlike := difference(found.description, description, seed)) is not None:
        raise UsageError(f"the run directory {place} holds another run: {unlike}; {remedy}")
    return found


def beside(place: Path) -> Path:
    """Return a path next to ``place`` at which there is nothing yet: ``place-2``, ``place-3``, …"""
    number = 2
    while (free := place.with_name(f"{place.name}-{number}")).exists():
        number += 1
    return free


def difference(there: Mapping[str, Any], here: Mapping[str, Any], seed: int | None = None) -> str | None:
    """Return what tells two described runs apart, or None if they are the same run: the same jobs by content."""
    theirs, ours = ({data["name"]: data for data in run["jobs"]} for run in (there, here))
    if theirs.keys() != ours.keys():
        return f"it has the jobs {', '.join(theirs)}, and this command {', '.join(ours)}"
    if there.get("directory") != here.get("directory"):
        return f"it was started in {there.get('directory')}, and this command in {here.get('directory')}"
    for name, job in ours.items():
        # What a Python function does cannot be compared, nor is it the place in a file that makes a job.
        keys = ("kind", "cwd") if job["kind"] == "python" else sorted((job.keys() | theirs[name].keys()) - {"where"})
        for key in keys:
            if job.get(key) != theirs[name].get(key):
                was, is_now = (json.dumps(data.get(key), default=str) for data in (theirs[name], job))
                return f"its job {name!r} has {key} {was:.200}, and here {is_now:.200}"
    if seed is not None and there.get("seed") != seed:
        return f"its seed is {there.get('seed')}, and here {seed}"
    return None


def options_of_start(run_dir: RunDir, description: Mapping[str, Any]) -> RunConfig:
    """Return the options of this start, as its ``description`` has them; the seed is that of the first start."""
    begun = RunConfig.from_json(run_dir.description, run_dir.path / "run.json")
    return dataclasses.replace(RunConfig.from_json(description), seed=begun.seed)


def retry(run_dir: RunDir, names: Sequence[str]) -> list[str]:
    """Have those of the jobs that failed run again, from their last checkpoints; return which."""
    again = []
    for name in names:
        result = ended_result(run_dir, name)
        if result is not None and result.status != "failed":
            continue
        charged = _attempts_dir(run_dir, name)
        if result is not None or charged.is_dir():
            again.append(name)
            _ended_path(run_dir, name).unlink(missing_ok=True)
            forget_attempts(run_dir, name)
    return again


def job_names(run_dir: RunDir) -> list[str]:
    """Return the names of the run's jobs; raise `CheckpointError` if its description is damaged."""
    place, jobs = run_dir.path / "run.json", run_dir.description.get("jobs")
    if not isinstance(jobs, list) or not jobs:
        raise CheckpointError(f"{place} is damaged, or not of `motet run`: it names no jobs")
    names = []
    for data in jobs:
        if not isinstance(data, dict) or not isinstance(data.get("name"), str):
            raise CheckpointError(f"{place} is damaged: it holds a job without a name")
        if data.get("kind") != "python":
            JobSpec.from_json(data)
        names.append(data["name"])
    if len(set(names)) < len(names):
        raise CheckpointError(f"{place} is damaged: it names a job twice")
    return names


def _left_out(charged: Sequence[Attempt]) -> JobResult:
    last, count = charged[-1], len({each.start for each in charged})
    error = (
        f"left out: it failed on one worker alone in {count} starts of the run, last on worker {last.worker} in turn "
        f"{last.turn}:\n{last.error}"
    )
    return JobResult("failed", last.turn, 0.0, 0.0, 0.0, error=error, failed_on=last.worker)


def _not_asked_for(run_dir: RunDir, name: str) -> JobResult:
    """Return what the last results say of a job that is to wait."""
    with contextlib.suppress(OSError, CheckpointError, KeyError):
        earlier = run_dir.read_results()[name]
        return dataclasses.replace(earlier, status="stopped")
    return JobResult("stopped", 0, 0.0, 0.0, 0.0)


def _has_begun(run_dir: RunDir, name: str) -> bool:
    return any((run_dir.path / "jobs" / name).glob("log*.txt"))


def _has_checkpoint(run_dir: RunDir, name: str) -> bool:
    return any((run_dir.checkpoints_dir / name).glob("turn-*"))


def saved_turn(run_dir: RunDir, name: str) -> int:
    """Return the turn of the job's last checkpoint, 0 if it has none; whether it is whole is not looked at."""
    names = [path.name.removeprefix("turn-").split(".")[0] for path in (run_dir.checkpoints_dir / name).glob("turn-*")]
    return max((int(number) for number in names if number.isdigit()), default=0)


def _ended_path(run_dir: RunDir, name: str) -> Path:
    return run_dir.path / "jobs" / name / "ended.json"


def _attempts_dir(run_dir: RunDir, name: str) -> Path:
    return run_dir.path / "jobs" / name / "attempts"
