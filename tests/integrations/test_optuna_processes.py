"""Trials in processes of their own: suggested, pruned and told by worker 0, trained as those that live together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from tests.integrations.python_process import torchrun


def test_searches_in_processes(tmp_path: Path) -> None:
    torchrun("tests/integrations/optuna_process_program.py", str(tmp_path))
    one, other = (json.loads((tmp_path / f"told.{worker}.json").read_text()) for worker in range(2))
    for report in (one, other):
        statuses = {name: status for name, (status, _, _) in report["pruned"].items()}
        assert statuses == {f"trial-{n}": "pruned" if n % 2 else "finished" for n in range(7)}
        assert {turns for status, turns, _ in report["pruned"].values() if status == "pruned"} == {2}
        assert report["most"] == 3, "three in flight, never more"
        assert report["parameters"] == 21, "three suggestions of seven trials, for the trackers"
        assert report["struck"] == report["together"], "one lost its process once; all train to the same values"
        assert report["raised"] == "trial 1"
    assert one["pruned"] == other["pruned"], "all workers hold worker 0's values"
    assert [state for _, state, _, _ in one["stored"]] == ["COMPLETE", "PRUNED"] * 3 + ["COMPLETE"]
    assert all(trial[3] is not None for trial in one["stored"]), "a pruned trial keeps its last reported value"
    assert {f"trial-{n}": value for n, state, _, value in one["stored"] if state == "COMPLETE"} == {
        name: value for name, (status, _, value) in one["pruned"].items() if status == "finished"
    }
    assert one["caught"] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert one["called"] == [0, 1, 2, 3]
    assert other["called"] == [], "callbacks are worker 0's"
    assert 3 <= one["stopped"] <= 4
