"""Searches whose trials live in processes of their own: a program for torchrun, ``optuna_process_program.py FOLDER``.

Worker by worker, what came of them goes to a file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
import torch.distributed as dist
from tests.integrations.optuna_searches import EveryOther, objective, study_in, summary

from motet.events import JobEnded, JobStarted, ParametersSet
from motet.integrations.optuna import optimize
from motet.results import Results

folder, worker = Path(sys.argv[1]), int(os.environ["RANK"])


class Seen:
    """How many trials were in flight at most, and how many parameters were told."""

    def __init__(self) -> None:
        self.live, self.most, self.parameters = 0, 0, 0

    def observe(self, event: Any) -> None:
        """Count."""
        self.live += isinstance(event, JobStarted)
        self.live -= isinstance(event, JobEnded)
        self.parameters += isinstance(event, ParametersSet)
        self.most = max(self.live, self.most)


def trains(trial: optuna.Trial, steps: int = 4) -> float:
    """Train as a program of its own does: with a group that it makes and ends."""
    dist.init_process_group("gloo")
    value = objective(trial, steps)
    dist.destroy_process_group()
    return value


def struck(trial: optuna.Trial) -> float:
    """Lose the process of the second trial on worker 1, once."""
    marker = folder / "killed"
    if trial.number == 1 and worker == 1 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return trains(trial)


def fails(trial: optuna.Trial) -> float:
    """Fail on all workers in the second trial, have no value in the third."""
    value = trains(trial, steps=2)
    if trial.number == 1:
        raise ZeroDivisionError("trial 1")
    return float("nan") if trial.number == 2 else value


def stops(trial: optuna.Trial) -> float:
    """Stop the study from within."""
    if trial.number == 2:
        trial.study.stop()
    return trains(trial, steps=2)


def results_of(results: Results) -> dict[str, Any]:
    """Return each trial's value."""
    return {name: job.result for name, job in results.jobs.items()}


def three_known() -> optuna.Study | None:
    """Return a study whose first three trials are given: which one asks first would decide otherwise."""
    if worker != 0:
        return None
    study = study_in("memory", folder, pruner=optuna.pruners.NopPruner())
    for width, optimizer in ((2, "sgd"), (4, "adam"), (6, None)):
        study.enqueue_trial({"lr": 0.01 * width, "width": width, "optimizer": optimizer})
    return study


def main() -> dict[str, Any]:
    """Search in several ways."""
    here = worker == 0
    seen, called = Seen(), []
    study = study_in("sqlite", folder, pruner=EveryOther()) if here else None
    whole: dict[str, Any] = {"house": "process"}
    results = optimize(study, trains, n_trials=7, at_once=3, run_dir=folder / "run", observers=[seen], **whole)
    report: dict[str, Any] = {
        "pruned": {name: (job.status, job.turns, job.result) for name, job in results.jobs.items()},
        "most": seen.most,
        "parameters": seen.parameters,
        "stored": summary(study),
    }
    report["struck"] = results_of(optimize(three_known(), struck, n_trials=3, at_once=3, **whole))
    try:
        optimize(optuna.create_study() if here else None, fails, n_trials=6, at_once=1, **whole)
    except ZeroDivisionError as error:
        report["raised"] = str(error)
    study = optuna.create_study() if here else None
    optimize(
        study, fails, 4, at_once=2, catch=ZeroDivisionError, callbacks=[lambda s, t: called.append(t.number)], **whole
    )
    report["caught"] = None if study is None else [trial.state.name for trial in study.trials]
    report["called"] = sorted(called)
    study = optuna.create_study() if here else None
    optimize(study, stops, n_trials=50, at_once=2, **whole)
    report["stopped"] = None if study is None else len(study.trials)
    # The same trials together, in one process.
    dist.init_process_group("gloo")
    report["together"] = results_of(optimize(three_known(), objective, n_trials=3, at_once=3))
    dist.destroy_process_group()
    return report


if __name__ == "__main__":
    (folder / f"told.{worker}.json").write_text(json.dumps(main()))
