"""Runs of an experiment tracker, made from the events of a run: one a job, grouped, written by worker 0 alone.

::

    motet run jobs.yaml --tracker tensorboard --tracker csv
    motet.run(jobs, observers=[TensorBoard("logs"), MLflow(experiment="digits")])

A tracker is an `motet.Observer`. One that fails is reported once and left out; the training goes on.
"""

from __future__ import annotations

import importlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from motet.errors import UsageError
from motet.events import Event, JobEnded, JobStarted, MetricsLogged, ParametersSet, RunEnded, RunStarted
from motet.integrations.extras import missing
from motet.suggest import did_you_mean

_NAMED = {
    "csv": ("csv_files", "CsvFiles", "csv"),
    "tensorboard": ("tensorboard", "TensorBoard", "tensorboard"),
    "mlflow": ("mlflow", "MLflow", "mlflow"),
    "wandb": ("wandb", "WandB", "wandb"),
}
NAMES = tuple(_NAMED)


class Tracker(ABC):
    """What all trackers share: who writes, and which event means what. A tracker says how each thing is written.

    Nothing is opened before the run starts, and only on worker 0.
    """

    def __init__(self) -> None:
        self._writes = False
        self._unix_offset = 0.0
        self._begun: set[str] = set()

    def observe(self, event: Event) -> None:
        """Write what ``event`` says of a job."""
        if isinstance(event, RunStarted):
            self._writes = event.worker == 0
            self._unix_offset = event.unix_time - event.time
            self._begun.clear()
            if self._writes:
                self.begin_run(event.num_workers)
        elif not self._writes:
            return
        elif isinstance(event, MetricsLogged):
            self.metrics(event.job, event.turn, event.time + self._unix_offset, event.values)
        elif isinstance(event, ParametersSet):
            self.parameters(event.job, event.values)
        elif isinstance(event, JobStarted):
            if event.job not in self._begun:  # a job that says how long it is starts anew, as an event
                self._begun.add(event.job)
                self.begin_job(event.job)
        elif isinstance(event, JobEnded):
            self.end_job(event.job, event.status, event.turns)
        elif isinstance(event, RunEnded):
            self.end_run()

    def begin_run(self, num_workers: int) -> None:  # noqa: B027  # most trackers have nothing of the kind
        """Begin what holds the jobs' runs together."""

    @abstractmethod
    def begin_job(self, job: str) -> None:
        """Begin the run of a job."""

    @abstractmethod
    def parameters(self, job: str, values: Mapping[str, object]) -> None:
        """Write what a job was made with; may come several times, with more."""

    @abstractmethod
    def metrics(self, job: str, turn: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Write what a job logged in its turn number ``turn``."""

    @abstractmethod
    def end_job(self, job: str, status: str, turns: int) -> None:
        """Write how a job ended (finished, failed, pruned, stopped), and end its run."""

    def end_run(self) -> None:  # noqa: B027
        """End what holds the jobs' runs together."""

    def attach_report(self, report: Path) -> None:  # noqa: B027
        """Keep the report with the runs, where the tracker keeps files. Called after the run, on worker 0."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise `UsageError` for an unknown tracker or one whose package is not installed; imports none of them."""
    for name in names:
        if name not in _NAMED:
            raise UsageError(f"there is no tracker {name!r}{did_you_mean(name, NAMES)}; there are: {', '.join(NAMES)}")
        package = _NAMED[name][2]
        if find_spec(package) is None:
            raise missing(package, package, ModuleNotFoundError(name=package))


def named_tracker(name: str, run_dir: Path, run: str) -> Tracker:
    """Return the tracker ``name`` as ``motet run --tracker`` makes it, for the run with the identity ``run``."""
    check_trackers([name])
    module, kind, _ = _NAMED[name]
    made: Any = getattr(importlib.import_module(f"motet.integrations.{module}"), kind)
    tracker = made.in_run_dir(run_dir, run)
    assert isinstance(tracker, Tracker)
    return tracker


def plain(value: object) -> str | int | float | bool:
    """Return a parameter as trackers take it: numbers and truth values as they are, everything else as text."""
    return value if isinstance(value, str | int | float | bool) else repr(value)[:500]


def group_name() -> str:
    """Return a name for the runs that belong together, from the time."""
    return time.strftime("motet-%Y-%m-%d-%H%M%S")
