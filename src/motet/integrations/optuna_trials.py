"""Where the jobs of a search come from: worker 0 asks the study for a trial, all workers run it as a job."""

from __future__ import annotations

import copy
import gc
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, TrialPruned
from optuna.pruners import NopPruner
from optuna.storages._heartbeat import BaseHeartbeatThread, get_heartbeat_thread, is_heartbeat_enabled
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from motet.errors import UsageError
from motet.handle import JobPruned
from motet.integrations.decisions import Decisions
from motet.integrations.optuna_requeue import MARK, mark, num_spent, requeue, requeue_lost
from motet.integrations.optuna_trial import SharedTrial, TrialFailed, answer_of
from motet.jobs import Job
from motet.results import JobResult

MOST_LOSSES = 3
Callback = Callable[[Study, FrozenTrial], None]

_logger = optuna.logging.get_logger("optuna.motet")  # below Optuna's own, so that its verbosity holds


@dataclass(frozen=True)
class Limits:
    """When a search ends, and what does not end it."""

    num_trials: int | None
    total_trials: int | None
    timeout_seconds: float | None
    catch: tuple[type[Exception], ...]


@dataclass
class _Running:
    """A trial under way. ``heartbeat`` reports to the storage that it is, if the storage wants to know."""

    trial: SharedTrial
    decisions: Decisions
    begun: Mapping[str, Any]
    real: Trial | None = None
    heartbeat: BaseHeartbeatThread | None = None
    error: Exception | None = None


class Trials:
    """The `motet.jobs.source.JobSource` of a search. ``error`` is what ended it early, on all workers alike.

    ``find_study`` is called on worker 0 alone, and so is everything that touches the study: ask, tell, callbacks.
    ``decisions(name)`` makes a series of questions; one that worker 0 asks itself, where no other worker has this.
    """

    def __init__(
        self,
        decisions: Callable[[str], Decisions],
        find_study: Callable[[], Study],
        objective: Callable[[Any], Any],
        limits: Limits,
        callbacks: Sequence[Callback],
        *,
        shared: bool,
        gc_after_trial: bool,
    ) -> None:
        self.error: Exception | None = None
        self._make_decisions = decisions
        self._objective = objective
        self._limits = limits
        self._callbacks = callbacks
        self._gc_after_trial = gc_after_trial
        self._decisions = decisions("search")
        self._names: list[str] = []
        self._running: dict[str, _Running] = {}
        self._num_begun = 0
        self._over = False
        self._begin = time.monotonic()
        self._study: Study | None = None

        def open_study() -> None:
            self._study = find_study()
            if self._study._thread_local.in_optimize_loop:
                raise UsageError("this study is being optimized already: a search cannot be begun inside another")
            self._study._stop_flag = False
            if requeued := requeue_lost(self._study, MOST_LOSSES, shared=shared):
                _logger.info(f"{requeued} trials of an earlier search, which was killed, are queued once more.")
            self._study._thread_local.in_optimize_loop = True  # `Study.stop` and heartbeats are in their place now

        self._decisions.ask("open the study", open_study)
        self._waiting = self._next()

    @property
    def study(self) -> Study:
        """The study; on worker 0 alone."""
        assert self._study is not None
        return self._study

    @property
    def names(self) -> Sequence[str]:
        """The names of all trials so far: ``trial-0``, by their numbers in the study."""
        return self._names

    def next_job(self) -> Job | None:
        """Return the next trial as a job; None when the search is over, or nothing else may begin now."""
        job, self._waiting = self._waiting or self._next(), None
        return job

    def _next(self) -> Job | None:
        if self._over:
            return None
        begun, real, heartbeat = None, None, None

        def begin_trial() -> dict[str, Any] | None:
            nonlocal real, heartbeat
            if self._is_over():
                return None
            real, heartbeat = self._ask_study()
            study, start = self.study, real.datetime_start
            prunes = len(study.directions) > 1 or not isinstance(study.pruner, NopPruner)
            return {"number": real.number, "prunes": prunes, "start": start.isoformat() if start else None}

        try:
            begun = self._decisions.ask("the next trial", begin_trial)
        except Exception as error:  # the storage, or the sampler
            self._give_up(error)
        if begun is None:
            self._over = True
            return None
        self._num_begun += 1
        name = f"trial-{begun['number']}"
        decisions = self._make_decisions(f"search/{name}")
        answer = None if real is None else partial(answer_of, real)
        running = _Running(SharedTrial(answer, begun, decisions), decisions, begun, real, heartbeat)
        self._running[name] = running
        self._names.append(name)
        return Job(name, partial(_call, self._objective, running))

    def begun(self, name: str) -> Mapping[str, Any]:
        """Return what a trial under way began with, as JSON can hold it."""
        return self._running[name].begun

    def answer(self, name: str, path: str, *args: Any, **kwargs: Any) -> Any:
        """Return what a trial under way answers (`answer_of`); on worker 0."""
        real = self._running[name].real
        assert real is not None
        return answer_of(real, path, *args, **kwargs)

    def failed(self, name: str, error: Exception) -> None:
        """Take note of what a trial raises, which decides whether the search ends."""
        self._running[name].error = error

    def _is_over(self) -> bool:
        """Whether no more trials are to begin; worker 0 decides."""
        limits = self._limits
        return (
            self.study._stop_flag
            or (limits.num_trials is not None and self._num_begun >= limits.num_trials)
            or (limits.timeout_seconds is not None and time.monotonic() - self._begin >= limits.timeout_seconds)
            or (limits.total_trials is not None and num_spent(self.study) >= limits.total_trials)
        )

    def _ask_study(self) -> tuple[Trial, BaseHeartbeatThread]:
        study = self.study
        if is_heartbeat_enabled(study._storage):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(study)
        trial = study.ask()
        owner = trial.user_attrs.get(MARK)
        lost = int(owner.get("lost", 0)) if isinstance(owner, dict) else 0
        trial.set_user_attr(MARK, {**mark(), "lost": lost})
        heartbeat = get_heartbeat_thread(trial._trial_id, study._storage)
        heartbeat.__enter__()
        return trial, heartbeat

    def job_ended(self, name: str, result: JobResult) -> None:
        """Tell the study how a trial ended, and call the callbacks; worker 0 does, all learn what it raised."""
        running = self._running.pop(name)
        # Every worker has agreed that the job ended, so each has read all answers that were given before.
        running.decisions.forget()
        self._decisions.forget()
        ends_search = False
        try:
            ends_search = self._decisions.ask(f"{name} ended", partial(self._tell, running, result))
        except Exception as error:  # a callback, the storage
            self._give_up(error)
        if ends_search:
            self._give_up(running.error or RuntimeError(f"{name} failed:\n{result.error}"))
        if self._gc_after_trial:
            gc.collect()

    def stop(self) -> Sequence[str]:
        """Begin no more trials; none is waiting that was never begun."""
        self._over = True
        return []

    def close(self) -> None:
        """Give back the study; when the run has ended, however it did."""
        if self._study is not None:
            self._study._thread_local.in_optimize_loop = False
        for running in self._running.values():  # the run was broken off
            if running.heartbeat is not None:
                running.heartbeat.__exit__(None, None, None)

    def _give_up(self, error: Exception) -> None:
        self.error = self.error or error
        self._over = True

    def _tell(self, running: _Running, result: JobResult) -> bool:
        """Tell the study, call the callbacks, return whether the failure ends the search. On worker 0."""
        trial, study = running.real, self.study
        assert trial is not None
        assert running.heartbeat is not None
        running.heartbeat.__exit__(None, None, None)
        if result.status == "stopped":
            self._requeue(trial)
            return False
        if result.status == "finished":
            study.tell(trial, result.result, state=TrialState.COMPLETE)
        else:
            study.tell(trial, state=TrialState.PRUNED if result.status == "pruned" else TrialState.FAIL)
        recorded = next(t for t in study.get_trials(deepcopy=False) if t.number == trial.number)
        self._log(recorded, running.error)
        for callback in self._callbacks:
            callback(study, copy.deepcopy(recorded))
        failed = result.status == "failed" and not isinstance(running.error, TrialFailed)
        return failed and not isinstance(running.error, self._limits.catch)

    def _requeue(self, trial: Trial) -> None:
        frozen = next(t for t in self.study.get_trials() if t.number == trial.number)
        requeue(self.study, frozen, int(frozen.user_attrs.get(MARK, {}).get("lost", 0)))
        self.study.tell(trial, state=TrialState.FAIL)
        _logger.info(f"Trial {trial.number} was stopped; it is queued once more.")

    def _log(self, trial: FrozenTrial, error: Exception | None) -> None:
        if trial.state is TrialState.COMPLETE:
            best = ""
            if len(self.study.directions) == 1:
                best = f" Best is trial {self.study.best_trial.number} with value: {self.study.best_value}."
            values = trial.values[0] if len(trial.values) == 1 else trial.values
            _logger.info(f"Trial {trial.number} finished with value: {values} and parameters: {trial.params}.{best}")
        elif trial.state is TrialState.PRUNED:
            _logger.info(f"Trial {trial.number} pruned.")
        else:
            _logger.warning(f"Trial {trial.number} failed with parameters: {trial.params}: {error!r}.")


def _call(objective: Callable[[Any], Any], running: _Running) -> float | list[float]:
    def failed(error: Exception) -> None:
        running.error = error

    return run_trial(objective, running.trial, failed)


def run_trial(
    objective: Callable[[Any], Any], trial: SharedTrial, failed: Callable[[Exception], None]
) -> float | list[float]:
    """Run one trial, in its job: on all workers. ``failed`` is called with what it raises."""
    try:
        return trial.settled(objective(trial))
    except TrialPruned as pruned:
        raise JobPruned(str(pruned)) from None
    except Exception as error:
        failed(error)
        raise
