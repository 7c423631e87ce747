"""A study of Optuna's whose trials run together, each trial a job.

::

    study = optuna.create_study(storage="sqlite:///search.db", study_name="mlp", load_if_exists=True)
    results = motet.integrations.optuna.optimize(study, objective, n_trials=50, at_once=4)

``objective(trial)`` trains with DistributedDataParallel and is not edited; the program is started by torchrun.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

try:
    import optuna
except ImportError as error:
    from motet.integrations.extras import missing

    raise missing("optuna", "optuna", error) from None

from motet.config import House, RunConfig
from motet.errors import UsageError
from motet.events import Observer
from motet.integrations.decisions import Decisions
from motet.integrations.optuna_processes import broadcast_end, search_of
from motet.integrations.optuna_trials import Callback, Limits, Trials
from motet.processes.peers import Peers
from motet.results import Results
from motet.run_dir import RunDir
from motet.running import run_search, run_source

__all__ = ["optimize"]


def optimize(
    study: optuna.Study | Callable[[], optuna.Study] | str | None,
    objective: Callable[[Any], Any],
    n_trials: int | None = None,
    timeout: float | None = None,
    catch: Iterable[type[Exception]] | type[Exception] = (),
    callbacks: Iterable[Callback] | None = None,
    gc_after_trial: bool = False,
    *,
    study_name: str | None = None,
    total_trials: int | None = None,
    at_once: int = 4,
    shared: bool = False,
    house: House = "together",
    run_dir: RunDir | Path | str | None = None,
    observers: Sequence[Observer] = (),
    verbose: bool = False,
) -> Results:
    """Optimize ``study`` with ``at_once`` trials at once, each on all workers; return what came of the jobs.

    Every worker calls it alike. Worker 0 alone uses ``study``: the object, a function that makes or loads it, or a
    storage's URL (with ``study_name``); other workers may give the same, or None. ``objective`` runs on all workers;
    suggestions, `should_prune` and attributes are worker 0's, and so is the value. ``n_trials``, ``timeout``
    (seconds; trials under way go on), ``catch`` and ``callbacks`` (worker 0 calls them) are as in
    ``Study.optimize``. ``total_trials`` is how many the study shall have in all, those of earlier searches included:
    with it, a search that was killed goes on when the program is started again.

    A complete trial is never run again. One that was running when a search was killed or stopped is queued once more
    with the same parameters (up to 3 times). ``shared``: searches on other machines work on this study at the same
    time, so leave their running trials alone. ``house``: ``"process"`` has each trial live in a process of its own on
    each worker, with torch's own DDP; its calls of ``trial`` are answered by worker 0's own process. Trials ask for
    suggestions as they come by there, so two searches with one seed may draw them in another order.

    Raises what an objective raised on all workers and ``catch`` does not name, once the trials under way have ended;
    `UsageError` for bad arguments; `GangError` if something went wrong between the workers.
    """
    _refuse_wrong_numbers(n_trials, total_trials, at_once)
    caught = (catch,) if isinstance(catch, type) else tuple(catch)

    def make_trials(decisions: Callable[[str], Decisions]) -> Trials:
        return Trials(
            decisions,
            lambda: _found(study, study_name),
            objective,
            Limits(n_trials, total_trials, timeout, caught),
            tuple(callbacks or ()),
            shared=shared,
            gc_after_trial=gc_after_trial,
        )

    config = RunConfig(at_once=at_once, verbose=verbose, house=house)
    return _search(objective, make_trials, config, run_dir, observers)


def _refuse_wrong_numbers(n_trials: object, total_trials: object, at_once: object) -> None:
    wrong = [n for n in (n_trials, total_trials) if n is not None and (not isinstance(n, int) or n < 0)]
    if wrong:
        raise UsageError(f"n_trials and total_trials take a number of trials, not {wrong[0]!r}")
    if not isinstance(at_once, int) or at_once < 1:
        raise UsageError(f"at_once takes a number of trials, at least 1; it was given {at_once!r}")


def _search(
    objective: Callable[[Any], Any],
    make_trials: Callable[[Callable[[str], Decisions]], Trials],
    config: RunConfig,
    run_dir: RunDir | Path | str | None,
    observers: Sequence[Observer],
) -> Results:
    """Run the trials, in the housing that was asked for; raise what ended the search early."""
    trials: list[Trials] = []

    def open_trials(decisions: Callable[[str], Decisions]) -> Trials:
        trials.append(make_trials(decisions))
        return trials[0]

    def ended(peers: Peers) -> None:
        error = trials[0].error if trials else None
        broadcast_end(peers, error)

    try:
        if config.house == "process":
            search = search_of(objective, partial(open_trials, Decisions.of_worker_0), ended)
            return run_search(search, config, run_dir=run_dir, observers=observers)
        results = run_source(
            lambda workers: open_trials(partial(Decisions.of_workers, workers)),
            config,
            run_dir=run_dir,
            observers=observers,
        )
    finally:
        for source in trials:
            source.close()
    if trials[0].error is not None:
        raise trials[0].error
    return results


def _found(study: object, study_name: str | None) -> optuna.Study:
    """Return the study; called on worker 0."""
    if isinstance(study, str):
        return optuna.load_study(study_name=study_name, storage=study)
    found = study() if callable(study) else study
    if not isinstance(found, optuna.Study):
        raise UsageError(f"worker 0 needs a study, a function that returns one, or a storage's URL; it got {found!r}")
    return found
