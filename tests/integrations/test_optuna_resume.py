"""A search whose workers were killed: complete trials never run again, running ones once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from motet.integrations import optuna_requeue  # noqa: E402
from motet.testing import Gang  # noqa: E402

HOME = "tests.integrations.optuna_searches:"


@pytest.mark.parametrize(("kind", "worker"), [("sqlite", 0), ("journal", 1)])
def test_a_search_goes_on_after_a_worker_was_killed(
    new_gang: Callable[[int], Gang], tmp_path: Path, kind: str, worker: int
) -> None:
    gang = new_gang(2)
    outcomes = gang.attempt(HOME + "killed_at", kind, tmp_path, worker, 3)
    assert outcomes[worker].status == -9
    (stored, jobs), _ = gang.run(HOME + "killed_at", kind, tmp_path, worker, 3)
    complete = {trial[0]: trial for trial in stored if trial[1] == "COMPLETE"}
    lost = {trial[0]: trial for trial in stored if trial[1] == "FAIL"}
    assert len(complete) == 6, "in all, over both searches"
    assert 1 <= len(lost) <= 2, "those that were in flight"
    assert 3 in lost
    assert len(stored) == 6 + len(lost)
    assert set(jobs.values()) == {"finished"}
    # Each lost trial was run again once, with its own parameters.
    learning_rates = Counter(trial[2]["lr"] for trial in complete.values())
    assert all(learning_rates[trial[2]["lr"]] == 1 for trial in lost.values())
    ran = Counter((tmp_path / "ran-0").read_text().split())
    assert all(ran[str(number)] == 1 for number in complete), "no trial that is complete ran twice"


def test_a_trial_that_kills_every_run_is_not_queued_for_ever() -> None:
    study = optuna.create_study()
    dead = {**optuna_requeue.mark(), "process": 2**22 + 1, "started": "1"}
    for lost in (0, 1, 2):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr(optuna_requeue.MARK, {**dead, "lost": lost})
        assert optuna_requeue.requeue_lost(study, 2, shared=False) == (1 if lost < 2 else 0)
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 3
    assert len({trial.params["x"] for trial in study.trials}) == 1
    assert optuna_requeue.num_spent(study) == 1, "one trial, tried three times"
    assert study.trials[2].system_attrs["retry_history"] == [0, 1]


def test_killed_between_queueing_and_telling_a_trial_is_queued_once() -> None:
    study = optuna.create_study()
    study.ask().set_user_attr(optuna_requeue.MARK, {"host": "elsewhere", "process": 1, "started": "1"})
    optuna_requeue.requeue(study, study.trials[0], 1)  # ... and killed here
    assert optuna_requeue.requeue_lost(study, 3, shared=False) == 0
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_trials_of_those_who_may_live_are_left_alone() -> None:
    study = optuna.create_study()
    study.ask()  # plain Optuna's
    study.ask().set_user_attr(optuna_requeue.MARK, {**optuna_requeue.mark(), "process": 1, "started": _started(1)})
    study.ask().set_user_attr(optuna_requeue.MARK, {"host": "elsewhere", "process": 1, "started": "1"})
    assert optuna_requeue.requeue_lost(study, 3, shared=True) == 0
    assert optuna_requeue.requeue_lost(study, 3, shared=False) == 1, "nobody works on it elsewhere"
    assert [trial.state.name for trial in study.trials] == ["RUNNING", "RUNNING", "FAIL", "WAITING"]


def _started(process: int) -> str | None:
    return optuna_requeue._started(process)
