"""A job that fails on one worker alone is tried again as often as is allowed, in all starts of a run together."""

from __future__ import annotations

from pathlib import Path

from motet.checkpoints import resuming
from motet.processes.ends import Verdict
from motet.processes.failures import Failures
from motet.run_dir import RunDir

ALONE = Verdict("failed", 4, "ValueError: no", 1, alone=True)


def test_each_process_that_fails_counts_once() -> None:
    failures = Failures(None, "start", most=2)
    assert failures.charge("a", 0, ALONE)
    assert failures.charge("b", 0, ALONE)
    assert failures.charge("a", 1, ALONE)
    assert not failures.charge("a", 2, ALONE)


def test_none_is_allowed() -> None:
    assert not Failures(None, "start", most=0).charge("a", 0, ALONE)


def test_failures_of_earlier_starts_count_and_a_later_start_counts_these(tmp_path: Path) -> None:
    """As where jobs live together: there each failure ends a start."""
    run_dir = RunDir.create(tmp_path / "run", {"jobs": [{"name": "a"}]})
    first = Failures(run_dir, "first", most=2)
    assert first.charge("a", 0, ALONE)
    again = Failures(run_dir, "second", most=2)
    assert again.charge("a", 0, ALONE)
    assert "a" not in resuming.inspect(run_dir, ["a"], max_job_failures=2).ended
    assert not again.charge("a", 1, ALONE)
    charged = resuming.attempts(run_dir, "a")
    assert [(each.worker, each.turn, each.error) for each in charged] == [(1, 5, "ValueError: no")] * 3
    left_out = resuming.inspect(run_dir, ["a"], max_job_failures=2).ended["a"]
    assert left_out.status == "failed"
