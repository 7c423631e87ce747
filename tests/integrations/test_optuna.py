"""A search with live trials: agreed on all workers, stored by worker 0, ended as Optuna ends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from tests.integrations.python_process import torchrun

from motet.testing import Gang

HOME = "tests.integrations.optuna_searches:"


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_trials_run_together_and_only_worker_0_talks_to_the_storage(
    gangs: Callable[[int], Gang], tmp_path: Path, kind: str
) -> None:
    (stored, jobs), (nothing, others) = gangs(2).run(HOME + "search", kind, tmp_path, 3, 5)
    assert nothing is None
    assert jobs == others, "all workers hold worker 0's values"
    assert [trial[:2] for trial in stored] == [(n, "COMPLETE") for n in range(5)]
    assert {name: job[2] for name, job in jobs.items()} == {f"trial-{t[0]}": t[3] for t in stored}
    assert all(set(trial[2]) == {"lr", "width", "optimizer"} for trial in stored)


def test_one_at_a_time_gives_what_many_at_once_give_for_the_same_parameters(gangs: Callable[[int], Gang]) -> None:
    alone = gangs(2).run(HOME + "one_after_another", 3)[0]
    (together, _), _ = gangs(2).run(HOME + "search", "memory", Path(), 3, 3)
    assert alone == together, "the first three are random, from the same seed, and train to the same values"


def test_a_pruned_trial_ends_everywhere_in_the_same_turn_and_the_next_takes_its_place(
    gangs: Callable[[int], Gang], tmp_path: Path
) -> None:
    (jobs, most, parameters, stored), (others, *_) = gangs(2).run(HOME + "prune_odd_trials", str(tmp_path / "run"))
    assert jobs == others
    assert {name: status for name, (status, _) in jobs.items()} == {
        f"trial-{n}": "pruned" if n % 2 else "finished" for n in range(7)
    }
    assert {turns for status, turns in jobs.values() if status == "pruned"} == {2}
    assert most == 3, "three in flight, never more"
    assert parameters == 21, "three suggestions of seven trials, for the trackers"
    assert [trial[1] for trial in stored] == ["COMPLETE", "PRUNED"] * 3 + ["COMPLETE"]
    assert all(trial[3] is not None for trial in stored), "a pruned trial keeps its last reported value"


def test_failures_end_a_search_unless_they_are_caught(gangs: Callable[[int], Gang]) -> None:
    (raised, stored, calls), (also_raised, _, none) = gangs(2).run(HOME + "fail_some", False)
    assert raised == also_raised == "trial 1"
    assert stored[1][1] == "FAIL"
    assert len(stored) <= 3, "at most the one that was in flight with it"
    assert none == []
    (raised, stored, calls), _ = gangs(2).run(HOME + "fail_some", True)
    assert raised is None
    assert [trial[1] for trial in stored] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert calls == list(range(6)), "callbacks see failed trials too"


@pytest.mark.parametrize("how", ["callback", "objective", "timeout", "error"])
def test_a_search_ends_when_it_is_told_to(gangs: Callable[[int], Gang], how: str) -> None:
    (raised, num_trials), (also_raised, _) = gangs(2).run(HOME + "stop_early", how)
    assert (raised is not None) == (also_raised is not None) == (how == "error")
    assert num_trials == 0 if how == "timeout" else 3 <= num_trials <= 4


def test_any_sampler_and_pruner(gangs: Callable[[int], Gang]) -> None:
    grid, halving, hyperband, genetic = gangs(2).run(HOME + "samplers")[0]
    assert 4 <= len(grid) <= 6
    assert {(t[2]["lr"], t[2]["width"]) for t in grid} == {(0.01, 2), (0.01, 4), (0.1, 2), (0.1, 4)}
    for stored in (halving, hyperband, genetic):
        assert len(stored) == 6
        assert {trial[1] for trial in stored} <= {"COMPLETE", "PRUNED"}


def test_several_objectives(gangs: Callable[[int], Gang]) -> None:
    for first, second in gangs(2).run(HOME + "two_objectives")[0]:
        assert first == -second


def test_a_storage_that_fails_in_report_fails_the_trial_on_all_workers(gangs: Callable[[int], Gang]) -> None:
    (statuses, stored), (others, _) = gangs(2).run(HOME + "storage_fails_in_report")
    # The study prunes (the default pruner), so the next question is should_prune.
    assert statuses == others == {"trial-0": "finished", "trial-1": "failed", "trial-2": "finished"}
    assert stored[1][1] == "FAIL"


@pytest.mark.parametrize(("how", "message"), [("none", "worker 0 needs a study"), ("at_once", "at least 1")])
def test_bad_arguments_are_everybodys_error(gangs: Callable[[int], Gang], how: str, message: str) -> None:
    for report in gangs(2).run(HOME + "bad_search", how):
        assert report.startswith("UsageError")
        assert message in report


def test_a_question_on_one_worker_alone_is_an_error_that_says_so(new_gang: Callable[[int], Gang]) -> None:
    outcomes = new_gang(2).attempt(HOME + "questions_on_one_worker")
    assert not any(outcome.ok for outcome in outcomes), outcomes
    assert "worker 0 asks 'set_user_attr only'" in "".join(outcome.error or "" for outcome in outcomes)


@pytest.mark.slow
def test_the_example(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    storage = f"sqlite:///{tmp_path}/search.db"
    report = torchrun("examples/optuna_search.py", "--storage", storage, "--trials", "4", "--epochs", "2")
    assert "4 trials" in report
    assert "best: accuracy 0." in report
