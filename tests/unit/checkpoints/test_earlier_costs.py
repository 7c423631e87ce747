"""What turns cost is taken over from the last run of the same jobs, and from no other."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from motet.checkpoints.earlier_costs import FILE, CostKeeper, find, find_on_0
from motet.config import RunConfig
from motet.events import OrderChanged
from motet.run_dir import RunDir
from motet.schedule.costs import Cost

COSTS = {"a": Cost(0.1, 0.25, 1000), "b": Cost(1 / 3, 0.5, 20)}
CONFIG = RunConfig()
CHANGED = OrderChanged(0.0, ("a", "b"), "")


def run_in(place: Path, **job: Any) -> RunDir:
    jobs = [{"name": name, "kind": "script", "arguments": ["--lr", "1"], **job} for name in COSTS]
    return RunDir.create(place, {"jobs": jobs, "directory": "/here"})


def keep(run_dir: RunDir, costs: dict[str, Cost] = COSTS, num_workers: int = 2) -> None:
    CostKeeper(run_dir, CONFIG, num_workers, lambda: costs).observe(CHANGED)


def test_a_later_start_of_the_run_finds_what_was_kept(tmp_path: Path) -> None:
    run_dir = run_in(tmp_path / "run")
    assert find(run_dir, COSTS, CONFIG, 2) == {}
    keep(run_dir)
    assert find(run_dir, COSTS, CONFIG, 2) == COSTS
    assert find(run_dir, ["b"], CONFIG, 2) == {"b": COSTS["b"]}
    assert find_on_0(lambda look: look(), run_dir, COSTS, CONFIG, 2) == COSTS


def test_costs_of_jobs_that_have_ended_are_kept(tmp_path: Path) -> None:
    run_dir = run_in(tmp_path / "run")
    live = dict(COSTS)
    keeper = CostKeeper(run_dir, CONFIG, 2, lambda: live)
    keeper.observe(CHANGED)
    del live["a"]
    live["b"] = Cost(7, 7)
    keeper.observe(CHANGED)
    assert find(run_dir, COSTS, CONFIG, 2) == {"a": COSTS["a"], "b": Cost(7, 7)}


def test_the_next_run_of_the_same_jobs_takes_them_from_the_latest_beside_it(tmp_path: Path) -> None:
    older, newer = run_in(tmp_path / "older"), run_in(tmp_path / "newer")
    keep(older, {"a": Cost(1, 1), "b": Cost(1, 1)})
    keep(newer)
    os.utime(older.path / FILE, (1, 1))
    assert find(run_in(tmp_path / "now"), COSTS, CONFIG, 2) == COSTS


@pytest.mark.parametrize("job", [{"arguments": ["--lr", "2"]}, {"kind": "module"}])
def test_other_jobs_of_the_same_names_do_not_count(tmp_path: Path, job: dict[str, Any]) -> None:
    keep(run_in(tmp_path / "before", **job))
    assert find(run_in(tmp_path / "now"), COSTS, CONFIG, 2) == {}


@pytest.mark.parametrize(
    ("config", "num_workers"),
    [(CONFIG, 3), (dataclasses.replace(CONFIG, compress="bf16"), 2), (dataclasses.replace(CONFIG, house="process"), 2)],
)
def test_other_circumstances_do_not_count(tmp_path: Path, config: RunConfig, num_workers: int) -> None:
    run_dir = run_in(tmp_path / "run")
    keep(run_dir)
    assert find(run_dir, COSTS, config, num_workers) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"jobs": {"a": [1.0, -1.0, 0]}},
        {"jobs": {"a": [1.0, "x", 0]}},
        {"jobs": {"a": [1.0]}},
        {"jobs": {"a": [float("nan"), 1.0, 0]}},
        {"jobs": []},
        {"workers": None},
        None,
    ],
)
def test_a_damaged_file_counts_as_none(tmp_path: Path, change: dict[str, Any] | None) -> None:
    run_dir = run_in(tmp_path / "run")
    keep(run_dir)
    path = run_dir.path / FILE
    path.write_text("[1" if change is None else json.dumps({**json.loads(path.read_text()), **change}))
    assert find(run_dir, COSTS, CONFIG, 2) == {}


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    run_dir = run_in(tmp_path / "run")
    (run_dir.path / FILE).mkdir()
    keep(run_dir)
    assert find(run_dir, COSTS, CONFIG, 2) == {}
