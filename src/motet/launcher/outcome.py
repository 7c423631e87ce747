"""What became of a run, when the workers could not agree on it themselves: the error to raise, and ``results.json``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
from collections.abc import Mapping

from motet import errors
from motet.checkpoints.resuming import ended_result, saved_turn
from motet.errors import CheckpointError, GangError, MotetError, SyncTimeoutError, WorkerFailedError, WorkerLostError
from motet.observe.text import bytes_text
from motet.results import JobResult, Results
from motet.run_dir import RunDir


@dataclasses.dataclass(frozen=True)
class GangOutcome:
    """How the workers of this machine ended.

    ``exits``: exit status by worker, in the order in which they ended; a negative one is the signal that ended it.
    ``killed``: workers that the launcher ended because they did not end by themselves. ``stopped_by``: the signal
    by which the user stopped the run. ``overdue``: who has held up an end of the run for too long, if anybody has.
    ``lost``: why there was no other attempt with the other hosts.
    """

    num_workers: int
    exits: Mapping[int, int]
    killed: frozenset[int]
    stopped_by: signal.Signals | None
    wall_seconds: float
    overdue: str = ""
    lost: GangError | None = None

    @property
    def agreed(self) -> bool:
        """Return whether all workers ended by themselves with a common outcome."""
        return bool(self.exits) and not any(self.exits.values()) and self.lost is None


def conclude(outcome: GangOutcome, run_dir: RunDir, *, writes: bool = True) -> tuple[Results, MotetError | None]:
    """Return what came of the run, and the error that ended it, if one did; ``results.json`` is there afterwards.

    Of several machines that share the directory only worker 0's ``writes``.
    """
    if outcome.agreed:
        with contextlib.suppress(FileNotFoundError):
            return run_dir.read_results(), None
    error: MotetError | None = None
    if outcome.stopped_by is not None:
        notice = f"stopped by {outcome.stopped_by.name} before the workers could write results"
    else:
        error = _error(outcome, run_dir)
        notice = str(error)
    results = _what_is_known(outcome, run_dir, notice)
    if writes:
        with contextlib.suppress(OSError):  # a full disk: the error is reported all the same
            run_dir.write_results(results)
    return results, error


def exit_status(results: Results) -> int:
    """Return the exit status of ``motet run``: 0 all finished or pruned, 1 a job failed, 3 stopped before the end."""
    statuses = {job.status for job in results.jobs.values()}
    return 3 if "stopped" in statuses else 1 if "failed" in statuses else 0


def how_it_ended(worker: int, status: int) -> str:
    """Say how ``worker`` ended."""
    if status >= 0:
        return f"worker {worker} ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"worker {worker} was killed by {name}"


def _error(outcome: GangOutcome, run_dir: RunDir) -> MotetError:
    """Return the error that says which worker ended the run, how, and what it was doing."""
    if outcome.lost is not None:
        return outcome.lost
    if outcome.overdue:
        return SyncTimeoutError(outcome.overdue)
    left = {worker: error for worker in outcome.exits if (error := _reported_error(run_dir, worker)) is not None}
    for error in left.values():
        if not isinstance(error, GangError):
            return error
    lost = [worker for worker, status in outcome.exits.items() if status < 0 and worker not in outcome.killed]
    broken = [worker for worker, status in outcome.exits.items() if status > 0 and worker not in left]
    lines = [_ending(outcome, run_dir, worker) for worker in (*lost, *broken)]
    lines += _without_echoes([str(left[worker]) for worker in sorted(left)[: 1 if lines else None]])
    lines += [
        f"worker {worker} did not end by itself and was ended{_doing(run_dir, worker)}"
        for worker in sorted(outcome.killed)
    ]
    if not lines:
        lines = ["the workers ended without results"]
    if outcome.agreed:
        free = f"; {bytes_text(shutil.disk_usage(run_dir.path).free)} are free there" if run_dir.is_there() else ""
        lines = [f"the jobs have ended, but what came of them could not be written to {run_dir.path}{free}"]
    kind = WorkerLostError if lost else WorkerFailedError if broken else type(left[min(left)]) if left else GangError
    return kind("\n".join(lines))


def what_workers_reported(run_dir: RunDir) -> str:
    """Return the errors that the workers of the last attempt left, as one text; empty if they could not."""
    paths = sorted(run_dir.state_dir.glob("error-*"))
    workers = [int(path.name.removeprefix("error-")) for path in paths if path.name[6:].isdigit()]
    left = [_reported_error(run_dir, worker) for worker in workers]
    return "\n".join(_without_echoes([str(error) for error in left if error is not None])).strip()


def _without_echoes(texts: list[str]) -> list[str]:
    """Return each text once, and none that holds another one: workers pass on what others met."""
    different = list(dict.fromkeys(texts))
    return [text for text in different if not any(other in text for other in different if other != text)]


def _reported_error(run_dir: RunDir, worker: int) -> MotetError | None:
    """Return the error that ``worker`` left for the launcher, if it could."""
    try:
        report = json.loads(run_dir.error_path(worker).read_text(encoding="utf-8"))
        kind = getattr(errors, report["type"], MotetError)
        error = kind(str(report["text"])) if isinstance(kind, type) and issubclass(kind, MotetError) else None
        if isinstance(error, GangError):
            error.turns = {str(job): int(turn) for job, turn in report.get("turns", {}).items()}
        return error
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _ending(outcome: GangOutcome, run_dir: RunDir, worker: int) -> str:
    status = outcome.exits[worker]
    hint = {-signal.SIGKILL: "; did its machine run out of memory?"}.get(status, "")
    if status > 0:
        hint = "; what it said, if anything, stands above"
    return f"{how_it_ended(worker, status)}{_doing(run_dir, worker)}{hint}"


def _doing(run_dir: RunDir, worker: int) -> str:
    state = run_dir.read_state(worker)
    if state is None:
        return ""
    if state.job is None:
        return f", while {state.phase}"
    return f", in turn {state.turn} of job {state.job!r} ({state.phase})"


def _what_is_known(outcome: GangOutcome, run_dir: RunDir, notice: str) -> Results:
    """Return results for a run whose workers left none: jobs that have ended, and the turns last seen of others."""
    jobs: dict[str, JobResult] = {}
    turns: dict[str | None, int] = {}
    with contextlib.suppress(OSError, CheckpointError):
        turns.update({name: job.turns for name, job in run_dir.read_results().jobs.items()})
    for worker in range(outcome.num_workers):
        if (state := run_dir.read_state(worker)) is not None:
            turns[state.job] = max(turns.get(state.job, 0), state.turn)
        if isinstance(error := _reported_error(run_dir, worker), GangError):
            for job, turn in error.turns.items():
                turns[job] = max(turns.get(job, 0), turn)
    for data in run_dir.description.get("jobs", []):
        name = data["name"]
        ended = None
        with contextlib.suppress(CheckpointError):
            ended = ended_result(run_dir, name)
        reached = max(turns.get(name, 0), saved_turn(run_dir, name))
        jobs[name] = ended or JobResult("stopped", reached, 0.0, 0.0, 0.0)
    return Results(
        jobs=jobs,
        num_workers=outcome.num_workers,
        wall_seconds=outcome.wall_seconds,
        notices=(notice, "the workers left no results: turns and seconds are incomplete"),
    )
