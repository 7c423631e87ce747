"""Start workers through torch elastic, stay until they have ended, and say what became of them.

On one machine everything listens on loopback alone. On several, the rendezvous is torch elastic's own, as torchrun
sets it up from the same options, and the network has to be trusted as with torchrun.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pickle
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from motet.checkpoints.resuming import begin_or_go_on, options_of_start
from motet.config import LaunchOptions, RunConfig
from motet.errors import UsageError
from motet.integrations.trackers import check_trackers
from motet.jobs import Job, JobSpec, check_specs, found_from, in_cwd
from motet.launcher.notebook import in_notebook, show_report, shown_inline
from motet.launcher.outcome import GangOutcome, conclude
from motet.launcher.parcel import pack
from motet.results import Results
from motet.run_dir import RunDir
from motet.started_by import find_tasks
from motet.torch_versions import check


def launch(
    jobs: Mapping[str, Callable[[], object] | JobSpec] | Sequence[JobSpec],
    *,
    nproc_per_node: int | str = 1,
    run_dir: Path | str | None = None,
    max_restarts: int = 0,
    resume: bool = False,
    config: RunConfig | None = None,
    **options: Unpack[LaunchOptions],
) -> Results:
    """Start workers on this machine, let them train ``jobs`` together, and return the results when all have ended.

    For programs and notebooks; `motet.run` is for code that torchrun has started already. A job is a callable
    without arguments (`functools.partial` gives it some) that the workers can import, or a `JobSpec`. A program calls
    this below ``if __name__ == "__main__":``, since the workers import the program. Functions that were defined in a
    notebook need the package ``cloudpickle``; there, progress and report are shown below the cell unless ``quiet``.
    ``resume``: if ``run_dir`` holds this run already (jobs of the same names, specs of the same content), it goes on:
    jobs that have ended are not run again.

    ``options`` are those of ``motet run``, by the names of `RunConfig`'s fields, which says what each may be; they go
    over those of ``config``: ``at_once="auto"``, ``trackers=["wandb"]``, ``job_cwd="runs/{name}"``, ``seed=1``. Without
    a ``seed``, the jobs' random numbers differ from run to run.

    Results that are not JSON are loaded again where that runs no code (tensors, and containers of them); others
    stay the record that names their file. Raises `UsageError` before anything starts, `GangError` if something
    went wrong between the workers, and `KeyboardInterrupt` after Ctrl-C, when all workers have ended and
    ``results.json`` is written. A job that failed raises nothing: see its status.
    """
    refuse_other_systems()
    config = RunConfig.of(options, "motet.launch", config, known=LaunchOptions)
    if (notice := check()) is not None and not config.quiet:
        _notify(notice)
    # torch elastic takes a while to import, and does not import everywhere: here, and in the functions below.
    from motet.launcher.agent import PASSED_ON

    _refuse_among_workers()
    specs, calls = _sorted_out(jobs)
    names = [*calls, *(spec.name for spec in specs)] if not isinstance(jobs, Mapping) else list(jobs)
    if not names:
        raise UsageError("no jobs were given")
    config = config.for_jobs(names)
    elastic = _elastic(nproc_per_node, max_restarts)
    check_trackers(config.trackers)
    job_cwd = found_from(config.job_cwd, os.getcwd(), "motet.launch(job_cwd=...)")
    specs = in_cwd(specs, job_cwd)
    parcel = pack(calls)
    check_specs(specs)
    inline = in_notebook() and not config.quiet
    description = describe_run(_described(names, specs, calls, job_cwd), config)
    if resume:
        directory, _ = begin_or_go_on(run_dir, description, seed=config.seed)
    else:
        directory = RunDir.create(run_dir, description)
    start = json.dumps(options_of_start(directory, description).to_json())
    with directory.held():
        outcome = _run(elastic, directory, [f"--config={start}", *["--status-file"] * inline], parcel, config, inline)
        results, error = conclude(outcome, directory)
        if inline:
            show_report(directory.path)
    if outcome.stopped_by is not None:
        _pass_on(outcome.stopped_by, raised=outcome.stopped_by in PASSED_ON)
    if error is not None:
        raise error
    return _with_results_loaded(results, directory)


def _elastic(nproc_per_node: int | str, max_restarts: int) -> argparse.Namespace:
    """Return torchrun's options for workers on this machine."""
    from motet.launcher.options import check_torchrun_options, parse_torchrun_options

    elastic = parse_torchrun_options([f"--nproc-per-node={nproc_per_node}", f"--max-restarts={max_restarts}"])
    elastic.nnodes, elastic.standalone = "1:1", True  # PET_* variables are for torchrun and motet run
    check_torchrun_options(elastic)
    return elastic


def _run(
    elastic: argparse.Namespace,
    directory: RunDir,
    options: Sequence[str],
    parcel: bytes,
    config: RunConfig,
    inline: bool,
) -> GangOutcome:
    """Start the workers, with the functions in ``parcel``, and stay until they have ended."""
    from motet.launcher.workers import run_workers

    with tempfile.TemporaryDirectory(prefix="motet-") as private, _shown(directory, inline):
        path = Path(private, "parcel")
        path.write_bytes(parcel)
        return run_workers(
            elastic,
            [str(directory.path), f"--parcel={path}", *options],
            notify=(lambda text: None) if config.quiet else _notify,
            run_dir=directory,
            timeout_seconds=config.timeout_seconds,
        )


def _refuse_among_workers() -> None:
    """Raise `UsageError` in a worker, and where several processes would each start workers."""
    if "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ:
        raise UsageError(
            'motet.launch was called inside a worker. In a program, call it below `if __name__ == "__main__":` '
            "(workers import the program); under torchrun, use motet.run"
        )
    if (tasks := find_tasks(os.environ)) is not None:
        raise UsageError(
            f"{tasks.by} has started this program {tasks.size} times, and each would launch workers of its own: "
            "use motet.run, which takes the tasks for its workers, or start the program once"
        )


def _described(
    names: Sequence[str], specs: Sequence[JobSpec], calls: Mapping[str, Callable[[], object]], cwd: str | None
) -> list[dict[str, Any]]:
    """Return what ``run.json`` says of the jobs."""
    by_name = {spec.name: spec.to_json() for spec in specs}
    python: dict[str, Any] = {"kind": "python", "arguments": {}, "turns": None, "cwd": cwd}
    return [by_name.get(name) or {"name": name, "target": repr(calls[name]), **python} for name in names]


def _pass_on(number: signal.Signals, *, raised: bool) -> None:
    """Let a signal that has stopped the run reach the program."""
    if raised and signal.getsignal(number) == signal.SIG_DFL:
        raise KeyboardInterrupt(f"stopped by {number.name}")  # it would end the program without a word
    signal.raise_signal(number)  # to the program, whose own handlers are back in place


def _shown(run_dir: RunDir, inline: bool) -> contextlib.AbstractContextManager[None]:
    return shown_inline(run_dir.path) if inline else contextlib.nullcontext()


def _with_results_loaded(results: Results, run_dir: RunDir) -> Results:
    """Return ``results`` with those values that were saved as files, as far as loading them runs no code."""
    import torch

    jobs = dict(results.jobs)
    for name, job in jobs.items():
        file = job.result.get("file") if isinstance(job.result, dict) and set(job.result) == {"repr", "file"} else None
        if file is not None:
            with contextlib.suppress(pickle.UnpicklingError, OSError, RuntimeError):
                value = torch.load(run_dir.path / file, weights_only=True)
                jobs[name] = dataclasses.replace(job, result=value)
    return dataclasses.replace(results, jobs=jobs)


def _notify(text: str) -> None:
    sys.stderr.write(f"motet: {text}\n")


def refuse_other_systems() -> None:
    """Raise `UsageError` where Motet cannot run."""
    if sys.platform == "win32":
        raise UsageError("Motet does not run on Windows; use Linux, for instance in WSL 2")


def _sorted_out(
    jobs: Mapping[str, Callable[[], object] | JobSpec] | Sequence[JobSpec],
) -> tuple[list[JobSpec], dict[str, Callable[[], object]]]:
    """Return the jobs that are data and those that are callables."""
    if not isinstance(jobs, Mapping):
        wrong = [job for job in jobs if not isinstance(job, JobSpec)]
        if wrong:
            raise UsageError(
                f"a sequence of jobs must hold JobSpecs, not {wrong[0]!r}; give a mapping of names to callables"
            )
        names = [spec.name for spec in jobs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"two jobs are named {twice[0]!r}")
        return list(jobs), {}
    specs = [dataclasses.replace(job, name=name) for name, job in jobs.items() if isinstance(job, JobSpec)]
    calls = {name: job for name, job in jobs.items() if not isinstance(job, JobSpec)}
    for name, call in calls.items():
        Job(name, call)  # refuses what is no name, or not callable
    return specs, calls


def describe_run(
    jobs: Sequence[Mapping[str, Any]], config: RunConfig, command: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return what ``run.json`` says of a run. Without a seed it gets one that nobody has had."""
    if config.seed is None:
        config = dataclasses.replace(config, seed=secrets.randbelow(2**53))
    return {
        "command": list(command if command is not None else sys.argv),
        "directory": os.getcwd(),
        "jobs": [dict(job) for job in jobs],
        **config.to_json(),
        "versions": {
            "motet": _version("motet"),
            "python": sys.version.split()[0],
            "torch": _version("torch"),
            "numpy": _version("numpy"),
        },
        "commit": _commit(),
        "unix_time": time.time(),
    }


def _version(package: str) -> str:
    """Return the version of an installed package, and import none: torch would take seconds."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def _commit() -> str | None:
    """Return the commit of the user's code, with ``+`` if it has changes; None outside a repository."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
