"""Whether a command is to work in place, as one of several workers that something else has started."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

from motet.cli import leave_signals
from motet.errors import UsageError
from motet.launcher.torchrun_options import torchrun_options
from motet.started_by import Tasks, find_tasks, torchrun

_STARTS = ("nnodes", "nproc_per_node")


def works_in_place(argv: Sequence[str], parse: Callable[[Sequence[str]], argparse.Namespace]) -> bool:
    """Whether this process is a worker already: torchrun's, or a task of srun, mpirun, a PyTorchJob.

    Raises `UsageError` where each of several tasks would start a run of its own.
    """
    if not torchrun(os.environ):
        tasks = find_tasks(os.environ)
        if tasks is None or _starts_workers(tasks, parse(argv)):
            return False
    leave_signals()
    return True


def _starts_workers(tasks: Tasks, options: argparse.Namespace) -> bool:
    """Whether each task is to start workers of its own, as the only one of its host."""
    given = [name for name in _STARTS if name in _given(options) or f"PET_{name.upper()}" in os.environ]
    if not given:
        return False
    most = str(options.nnodes).rpartition(":")[2]
    if tasks.how_one and most != str(tasks.size):
        flags = " ".join(f"--{name.replace('_', '-')}={getattr(options, name)}" for name in given)
        raise UsageError(
            f"{tasks.by} has started this command {tasks.size} times, and with {flags} each would be a run of its own. "
            f"One task a worker: leave {flags} away. One task a host that starts its workers: {tasks.how_one}, "
            "--nnodes=HOSTS, --nproc-per-node=WORKERS and --rdzv-endpoint=FIRST_HOST:29400"
        )
    return True


def refuse_torchruns_options(options: argparse.Namespace) -> None:
    """Raise `UsageError` on options for starting workers: they are there."""
    if given := _given(options):
        flag = "--" + given[0].replace("_", "-")
        if torchrun(os.environ):
            raise UsageError(f"the workers are torchrun's already: give {flag} to torchrun, before -m motet run")
        raise UsageError(f"the workers have been started already, one a task: leave {flag} away")


def _given(options: argparse.Namespace) -> list[str]:
    defaults = {action.dest: action.default for action in torchrun_options()}
    return [name for name, default in defaults.items() if getattr(options, name) != default]
