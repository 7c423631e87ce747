"""A run on one machine says what its very jobs would gain on several, by what they cost here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.observe import synthetic

from motet.observe.digest import digest
from motet.observe.elsewhere import elsewhere, elsewhere_text


def test_gains_are_predicted_for_two_links(tmp_path: Path) -> None:
    plans = {
        "heavy": synthetic.Plan(40, 0.030, 0.001, 1_000_000),
        "light": synthetic.Plan(40, 0.002, 0.001, 40_000_000),
    }
    run = digest(synthetic.record(tmp_path, plans))
    slow, fast = elsewhere(run)
    assert (slow.link, fast.link) == ("1 Gbit/s", "10 Gbit/s")
    # Alone, light waits 40 MB * 8 / 1 Gbit/s = 0.32 s a turn, and a little for the latency.
    assert slow.one_after_another_seconds == pytest.approx(40 * (0.032 + 0.32), rel=0.1)
    assert slow.together_seconds < slow.one_after_another_seconds
    assert fast.times >= 1.0
    text = elsewhere_text(run)
    assert "at 1 Gbit/s" in text
    assert "Predicted" in text


def test_jobs_that_would_gain_nothing_are_told_so(tmp_path: Path) -> None:
    plans = {name: synthetic.Plan(40, 0.030, 0.001, 1000) for name in ("a", "b")}
    assert "would slow these jobs down little" in elsewhere_text(digest(synthetic.record(tmp_path / "small", plans)))
    plans = {name: synthetic.Plan(40, 0.001, 0.001, 90_000_000) for name in ("a", "b")}
    assert "at 1 Gbit/s" in elsewhere_text(digest(synthetic.record(tmp_path / "large", plans))), "the network binds"


def test_nothing_is_said_of_one_job_or_of_several_machines(tmp_path: Path) -> None:
    one = synthetic.record(tmp_path / "one", {"a": synthetic.Plan(40, 0.03, 0.01, 1_000_000)})
    assert elsewhere_text(digest(one)) == ""
    several = synthetic.record(tmp_path / "several", synthetic.THREE)
    description = json.loads((several / "run.json").read_text())
    description["command"] = ["motet", "run", "--nnodes=2", "jobs.yaml"]
    (several / "run.json").write_text(json.dumps(description))
    assert elsewhere_text(digest(several)) == ""
