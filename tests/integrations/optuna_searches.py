"""Objectives and searches that the workers of a gang run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import optuna
import torch
import torch.distributed as dist
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from tests.outside import send_from_outside
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from motet.errors import MotetError
from motet.integrations.optuna import optimize

optuna.logging.set_verbosity(optuna.logging.WARNING)


def storage_of(kind: str, folder: Path) -> Any:
    """Return a storage in ``folder``; only worker 0 may come here."""
    assert not dist.is_initialized() or dist.get_rank() == 0, "a worker other than 0 touched the storage"
    if kind == "sqlite":
        return f"sqlite:///{folder}/study.db"
    return JournalStorage(JournalFileBackend(str(folder / "study.log"))) if kind == "journal" else None


def study_in(kind: str, folder: Path, **options: Any) -> optuna.Study:
    """Make or load the study in ``folder``."""
    options.setdefault("sampler", optuna.samplers.TPESampler(seed=0, n_startup_trials=3))
    return optuna.create_study(storage=storage_of(kind, folder), study_name="s", load_if_exists=True, **options)


def study_at(kind: str, folder: Path) -> optuna.Study:
    """Load the study that is in ``folder``."""
    return optuna.load_study(study_name="s", storage=storage_of(kind, folder))


def objective(trial: optuna.Trial, steps: int = 4) -> float:
    """Train a line with DDP: an objective as it is written for Optuna and torchrun."""
    lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    width = trial.suggest_int("width", 2, 6, step=2)
    kind = trial.suggest_categorical("optimizer", ["sgd", "adam", None])
    torch.manual_seed(trial.number)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(4, width), nn.Linear(width, 1)))
    make = torch.optim.Adam if kind == "adam" else torch.optim.SGD
    optimizer = make(model.parameters(), lr=lr)
    numbers = torch.Generator().manual_seed(dist.get_rank())
    for step in range(steps):
        inputs = torch.randn(8, 4, generator=numbers)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trial.report(loss.item(), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    trial.set_user_attr("width twice", 2 * width)
    assert trial.user_attrs["width twice"] == 2 * width
    assert trial.params == {"lr": lr, "width": width, "optimizer": kind}
    # Worker 0's value counts; what others return is theirs.
    return loss.item() + dist.get_rank()


def summary(study: optuna.Study | None) -> list[tuple[Any, ...]] | None:
    """Return what a study's trials came to."""
    if study is None:
        return None
    return [(trial.number, trial.state.name, trial.params, trial.value) for trial in study.trials]


def search(kind: str, folder: Path, at_once: int, n_trials: int) -> Any:
    """Search with one study in a storage."""
    study = study_in(kind, folder) if dist.get_rank() == 0 else None
    results = optimize(study, objective, n_trials=n_trials, at_once=at_once)
    return summary(study), {name: (job.status, job.turns, job.result) for name, job in results.jobs.items()}


def one_after_another(n_trials: int) -> Any:
    """Let Optuna itself run the trials, with the trial that it offers for torch.distributed's like: none at once."""
    study = study_in("memory", Path()) if dist.get_rank() == 0 else None
    optimize(study, objective, n_trials=n_trials, at_once=1)
    return summary(study)


class EveryOther(optuna.pruners.BasePruner):
    """Prunes the trials with odd numbers at their second report. Only worker 0 has one."""

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        return trial.number % 2 == 1 and len(trial.intermediate_values) == 2


def prune_odd_trials(run_dir: str) -> Any:
    """Search with a pruner; say where each trial ended here and how many were in flight."""
    from motet.events import JobEnded, JobStarted, ParametersSet

    class Seen:
        def __init__(self) -> None:
            self.live, self.most, self.parameters = 0, 0, 0

        def observe(self, event: Any) -> None:
            self.live += isinstance(event, JobStarted)
            self.live -= isinstance(event, JobEnded)
            self.parameters += isinstance(event, ParametersSet)
            self.most = max(self.live, self.most)

    seen = Seen()
    study = optuna.create_study(pruner=EveryOther()) if dist.get_rank() == 0 else None
    results = optimize(study, objective, n_trials=7, at_once=3, run_dir=run_dir, observers=[seen])
    jobs = {name: (job.status, job.turns) for name, job in results.jobs.items()}
    return jobs, seen.most, seen.parameters, summary(study)


def fail_some(catch: bool) -> Any:
    """Search with an objective that fails on all workers; return what came of it and what was raised."""
    calls: list[int] = []

    def failing(trial: optuna.Trial) -> float:
        objective(trial, steps=2)
        if trial.number == 1:
            raise ZeroDivisionError("trial 1")
        return float("nan") if trial.number == 2 else 1.0

    study = optuna.create_study() if dist.get_rank() == 0 else None
    raised = None
    try:
        optimize(
            study,
            failing,
            n_trials=6,
            at_once=2,
            catch=ZeroDivisionError if catch else (),
            callbacks=[lambda study, trial: calls.append(trial.number)],
        )
    except ZeroDivisionError as error:
        raised = str(error)
    return raised, summary(study), sorted(calls)


def stop_early(how: str) -> Any:
    """Search until something ends it: a callback, the objective, the clock, a callback's error."""

    def callback(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if how == "callback" and trial.number == 2:
            study.stop()
        if how == "error" and trial.number == 2:
            raise KeyError("in a callback")

    def stopping(trial: optuna.Trial) -> float:
        if how == "objective" and trial.number == 2:
            trial.study.stop()
        return objective(trial, steps=2)

    study = optuna.create_study() if dist.get_rank() == 0 else None
    timeout = 0.0 if how == "timeout" else None
    raised = None
    try:
        optimize(study, stopping, n_trials=50, timeout=timeout, at_once=2, callbacks=[callback])
    except KeyError as error:
        raised = repr(error)
    return raised, None if study is None else len(study.trials)


def samplers() -> Any:
    """Search with samplers and pruners of different kinds, each to its end."""
    notices = []
    grid = optuna.samplers.GridSampler({"lr": [0.01, 0.1], "width": [2, 4], "optimizer": ["sgd"]})
    cases: list[dict[str, Any]] = [
        {"sampler": grid},
        {"sampler": optuna.samplers.RandomSampler(seed=1), "pruner": optuna.pruners.SuccessiveHalvingPruner()},
        {"sampler": optuna.samplers.TPESampler(seed=1, multivariate=True), "pruner": optuna.pruners.HyperbandPruner()},
        {"sampler": optuna.samplers.NSGAIISampler(seed=1), "pruner": optuna.pruners.MedianPruner()},
    ]
    for case in cases:
        study = optuna.create_study(**case) if dist.get_rank() == 0 else None
        optimize(study, objective, n_trials=6, at_once=3)
        notices.append(summary(study))
    return notices


def two_objectives() -> Any:
    """Search with two values a trial."""

    def both(trial: optuna.Trial) -> tuple[float, float]:
        width = trial.suggest_int("width", 2, 6)
        return float(width), -float(width)

    study = optuna.create_study(directions=["minimize", "maximize"]) if dist.get_rank() == 0 else None
    optimize(study, both, n_trials=3, at_once=2)
    return None if study is None else [trial.values for trial in study.trials]


def bad_search(how: str) -> str:
    """Begin a search that cannot be; return the message, which every worker must meet."""
    study: Any = optuna.create_study() if how == "at_once" else None
    try:
        optimize(study, objective, n_trials=1, at_once=0 if how == "at_once" else 1)
    except MotetError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def storage_fails_in_report() -> Any:
    """Have the storage fail while an intermediate value is reported: the trial fails, on all workers, alone."""

    def reporting(trial: optuna.Trial) -> float:
        if trial.number == 1 and dist.get_rank() == 0:
            answer = trial._answer  # type: ignore[attr-defined]

            def fail(path: str, *args: Any, **kwargs: Any) -> Any:
                if path == "report":
                    raise optuna.exceptions.StorageInternalError("disk on fire")
                return answer(path, *args, **kwargs)

            trial._answer = fail  # type: ignore[attr-defined]
        return objective(trial)

    study = optuna.create_study() if dist.get_rank() == 0 else None
    results = optimize(study, reporting, n_trials=3, at_once=2, catch=optuna.exceptions.StorageInternalError)
    return {name: job.status for name, job in results.jobs.items()}, summary(study)


def questions_on_one_worker() -> Any:
    """Ask for an attribute on worker 0 alone: an error that says so, no hang."""

    def lopsided(trial: optuna.Trial) -> float:
        if dist.get_rank() == 0:
            trial.set_user_attr("only", "here")
        return objective(trial)

    return optimize(optuna.create_study(), lopsided, n_trials=1, at_once=1)


def killed_at(kind: str, folder: Path, worker: int, at: int) -> Any:
    """Search until a worker is killed (SIGKILL) in trial number ``at``; then go on, when called again."""
    first = not (folder / "killed").exists()

    def fatal(trial: optuna.Trial) -> float:
        with (folder / f"ran-{dist.get_rank()}").open("a") as file:
            file.write(f"{trial.number}\n")
        lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        if first and trial.number == at and dist.get_rank() == worker:

            def report(value: float, step: int) -> None:
                (folder / "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)

            trial.report = report  # type: ignore[method-assign]
        objective(trial, steps=3)
        return lr

    def study() -> optuna.Study:
        return study_in(kind, folder, pruner=optuna.pruners.NopPruner())

    results = optimize(study, fatal, total_trials=6, at_once=2)
    return {name: job.status for name, job in results.jobs.items()}


def stopped(folder: Path) -> Any:
    """Ask a search to stop (SIGTERM on one worker), as a cluster does; then go on with it."""

    def stopping(trial: optuna.Trial) -> float:
        if trial.number == 1 and dist.get_rank() == 1:
            send_from_outside(signal.SIGTERM)
        return objective(trial, steps=2 if trial.number == 0 else 200)

    def study() -> optuna.Study:
        return study_in("sqlite", folder, pruner=optuna.pruners.NopPruner())

    first = optimize(study, stopping, total_trials=3, at_once=2)
    before = summary(study()) if dist.get_rank() == 0 else None
    second = optimize(study, lambda trial: objective(trial, steps=2), total_trials=3, at_once=2)
    after = summary(study()) if dist.get_rank() == 0 else None
    statuses = [sorted(job.status for job in results.jobs.values()) for results in (first, second)]
    return statuses, before, after


def with_heartbeats(folder: Path) -> Any:
    """Search in a storage that wants heartbeats; return the states and whether a heartbeat was recorded."""
    import threading
    import warnings

    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    study = None
    if dist.get_rank() == 0:
        storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/beats.db", heartbeat_interval=1, grace_period=60)
        study = optuna.create_study(storage=storage)
    optimize(study, lambda trial: objective(trial, steps=2), n_trials=3, at_once=2)
    left = [thread.name for thread in threading.enumerate() if "eartbeat" in repr(thread)]
    return summary(study), left
