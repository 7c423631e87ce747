"""A search whose workers were killed: complete trials never run again, running ones once more."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna")

from tests.integrations import optuna_searches  # noqa: E402
from tests.integrations.python_process import torchrun  # noqa: E402

from motet.integrations import optuna_requeue  # noqa: E402
from motet.testing import Gang  # noqa: E402

HOME = "tests.integrations.optuna_searches:"


def test_a_search_goes_on_after_a_worker_was_killed(new_gang: Callable[[int], Gang], tmp_path: Path) -> None:
    gang = new_gang(2)
    outcomes = gang.attempt(HOME + "killed_at", "journal", tmp_path, 1, 3)
    assert outcomes[1].status == -9
    gang.run(HOME + "killed_at", "journal", tmp_path, 1, 3)
    must_be_whole(optuna_searches.study_at("journal", tmp_path), tmp_path)


@pytest.mark.slow
def test_torchrun_starts_a_search_again_whose_worker_0_was_killed(tmp_path: Path) -> None:
    torchrun("--max-restarts=1", "tests/integrations/optuna_program.py", str(tmp_path))
    must_be_whole(optuna_searches.study_at("sqlite", tmp_path), tmp_path)


def test_a_search_that_is_stopped_queues_its_running_trials(gangs: Callable[[int], Gang], tmp_path: Path) -> None:
    (statuses, before, after), (others, _, _) = gangs(2).run(HOME + "stopped", tmp_path)
    assert statuses == others
    assert "stopped" in statuses[0]
    assert set(statuses[1]) == {"finished"}
    # The stop may find a trial that has asked for nothing yet: it has no parameters to be queued with.
    lost, queued = (
        sorted(trial[2]["lr"] for trial in before if trial[1] == state and trial[2]) for state in ("FAIL", "WAITING")
    )
    assert lost
    assert queued == lost
    assert len([trial for trial in after if trial[1] == "COMPLETE"]) == 3


def test_a_storage_that_wants_heartbeats_gets_them(gangs: Callable[[int], Gang], tmp_path: Path) -> None:
    (stored, left), _ = gangs(2).run(HOME + "with_heartbeats", tmp_path)
    assert [trial[1] for trial in stored] == ["COMPLETE"] * 3
    assert left == [], "their threads end with the trials"
    with contextlib.closing(sqlite3.connect(tmp_path / "beats.db")) as database:
        beats = database.execute("select count(distinct trial_id) from trial_heartbeats").fetchone()
    assert beats == (3,)


def must_be_whole(study: optuna.Study, folder: Path) -> None:
    """Check that all six trials are complete, none of them twice, and the lost ones ran again with their parameters."""
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    lost = [trial for trial in study.trials if trial.state.name == "FAIL"]
    assert len(complete) == 6, "in all, over both searches"
    assert len(study.trials) == 6 + len(lost)
    assert 3 in [trial.number for trial in lost]
    assert 1 <= len(lost) <= 2, "those that were in flight"
    learning_rates = Counter(trial.params["lr"] for trial in complete)
    assert all(learning_rates[trial.params["lr"]] == 1 for trial in lost if trial.params)
    ran = Counter((folder / "ran-0").read_text().split())
    assert all(ran[str(trial.number)] == 1 for trial in complete), "no trial that is complete ran twice"


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
