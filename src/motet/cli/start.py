"""What ``motet run`` and ``motet resume`` share: start workers for a run, and show what came of it."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import Any

from motet import entry
from motet.checkpoints import resuming
from motet.checkpoints.resuming import saved_turn
from motet.cli.report import build_quietly, closing_words
from motet.cli.table import results_table, terminal_width
from motet.config import RunConfig
from motet.errors import MotetError
from motet.jobs import JobSpec, check_specs
from motet.launcher.outcome import GangOutcome, conclude, exit_status, what_workers_reported
from motet.results import Results
from motet.run_dir import RunDir, shown_path


def run_workers(*arguments: Any, **options: Any) -> GangOutcome:
    """Do what `motet.launcher.workers.run_workers` does, as this command's last act; import torch elastic no sooner."""
    from motet.launcher import workers

    return workers.run_workers(*arguments, **{"last": True, **options})


def report(
    run_dir: RunDir, results: Results, error: MotetError | None, *, refused: bool = False, writes: bool = True
) -> int:
    """Print the table on stdout, errors on stderr; return the exit status of the command.

    Trace and report are built where this machine ``writes``: of several that share the directory, worker 0's.
    """
    if refused:
        sys.stderr.write(f"motet: {error}\n")
        return entry.REFUSED
    table = results_table(results, run_dir.shown_log, terminal_width())
    sys.stdout.write(table)
    if (place := run_dir.path / "results.json").exists():  # otherwise the disk is full
        sys.stdout.write(f"results: {shown_path(place)}\n")
    if writes and (page := build_quietly(run_dir.path)) is not None:
        sys.stdout.write(f"report: {shown_path(page)}\n{closing_words(run_dir.path)}")
    sys.stdout.flush()
    status = exit_status(results)
    if error is not None:
        sys.stderr.write(f"motet: {error}\n")
        status = entry.GANG_FAILED
    sys.stderr.write(_how_to_go_on(run_dir, results))
    return status


def _how_to_go_on(run_dir: RunDir, results: Results) -> str:
    """Return what `motet resume` would do: which jobs go on from what was saved, which begin anew."""
    stopped = [name for name, job in results.items() if job.status == "stopped"]
    if not stopped or any(data.get("kind") == "python" for data in run_dir.description.get("jobs", ())):
        return ""
    command = f"motet resume {shlex.quote(shown_path(run_dir.path))}"
    saved = {name: turn for name in stopped if (turn := saved_turn(run_dir, name))}
    if not saved:
        return f"motet: no job has saved a checkpoint: {command} would begin {', '.join(stopped)} anew\n"
    text = [f"{name} after turn {saved[name]}" if name in saved else f"{name} anew" for name in stopped]
    return f"motet: to go on: {command} ({', '.join(text)})\n"


def notify(options: argparse.Namespace, text: str) -> None:
    """Say something on stderr, unless the command is to be quiet."""
    if not options.quiet:
        sys.stderr.write(f"motet: {text}\n")
        sys.stderr.flush()


def go_on(
    options: argparse.Namespace,
    run_dir: RunDir,
    config: RunConfig,
    *,
    retry_failed: bool = False,
) -> int:
    """Go on with a run, this time with the options ``config``; return the exit status of the command."""
    if (status := prepare_to_go_on(options, run_dir, config, retry_failed=retry_failed)) is not None:
        return status
    outcome = run_workers(
        options,
        [str(run_dir.path), f"--config={json.dumps(config.to_json())}"],
        notify=lambda text: notify(options, text),
        explain=lambda: what_workers_reported(run_dir),
        run_dir=run_dir,
        timeout_seconds=config.timeout_seconds,
    )
    return report(run_dir, *conclude(outcome, run_dir), refused=entry.REFUSED in outcome.exits.values())


def prepare_to_go_on(
    options: argparse.Namespace, run_dir: RunDir, config: RunConfig, *, retry_failed: bool = False
) -> int | None:
    """Check what is left to do of a run, and say where it goes on; return a status where nothing is left."""
    names = resuming.job_names(run_dir)
    resume_state = resume_state_of(options, run_dir, config, retry_failed=retry_failed)
    if not (left := [name for name in names if name not in resume_state.ended]):
        jobs = {name: resume_state.ended[name] for name in names}
        results = Results(jobs, num_workers=0, wall_seconds=0.0)
        text = "nothing to do: all jobs that were asked for have ended"
        hint = " (--retry-failed goes on with those that failed)" if exit_status(results) == 1 else ""
        notify(options, text + hint)
        sys.stdout.write(results_table(results, width=terminal_width()))
        return exit_status(results)
    specs = [JobSpec.from_json(data) for data in run_dir.description["jobs"] if data["name"] in left]
    check_specs([spec.filled(run_dir.job_dir(spec.name)) for spec in specs], notify=lambda text: notify(options, text))
    for name in left:
        _notify_where(options, run_dir, name)
    return None


def resume_state_of(
    options: argparse.Namespace,
    run_dir: RunDir,
    config: RunConfig,
    *,
    retry_failed: bool,
) -> resuming.ResumeState:
    """Return where the run stands, after what failed is made to count no more, if that was asked for."""
    names = resuming.job_names(run_dir)
    failures, only = config.max_job_failures, config.only
    resuming.inspect(run_dir, names, max_job_failures=failures, only=only)  # is everything whole that is asked for?
    if retry_failed:
        for name in resuming.retry(run_dir, only or names):
            notify(options, f"job '{name}' had failed and is tried again")
    return resuming.inspect(run_dir, names, max_job_failures=failures, only=only)


def _notify_where(options: argparse.Namespace, run_dir: RunDir, name: str) -> None:
    """Say where a job goes on; raise `CheckpointError` if it has checkpoints and none of them is whole."""
    from motet.checkpoints import Checkpoints

    checkpoints = Checkpoints(run_dir.checkpoints_dir, name, worker=0, num_workers=1)
    found = checkpoints.latest()
    for problem in checkpoints.problems:
        notify(options, f"job '{name}': {problem}")
    if found is not None:
        notify(options, f"job '{name}' goes on after turn {found.turn}")
