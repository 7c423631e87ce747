"""What turns cost is taken over from the last run of the same jobs, and from no other."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from motet.checkpoints.earlier_costs import FILE, CostKeeper
from motet.config import RunConfig
from motet.events import JobStarted, OrderChanged, RunEnded
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


def find(run_dir: RunDir, names: Collection[str], config: RunConfig, num_workers: int) -> dict[str, Cost]:
    return CostKeeper(run_dir, config, num_workers, dict).find(names)


def test_a_later_start_of_the_run_finds_what_was_kept(tmp_path: Path) -> None:
    run_dir = run_in(tmp_path / "run")
    assert find(run_dir, COSTS, CONFIG, 2) == {}
    keep(run_dir)
    assert find(run_dir, COSTS, CONFIG, 2) == COSTS
    assert find(run_dir, ["b"], CONFIG, 2) == {"b": COSTS["b"]}
    assert CostKeeper(run_dir, CONFIG, 2, dict).find_on_0(lambda look: look(), COSTS) == COSTS


def test_costs_are_kept_at_the_end_as_well_and_at_no_other_time(tmp_path: Path) -> None:
    run_dir = run_in(tmp_path / "run")
    known: dict[str, Cost] = {}
    keeper = CostKeeper(run_dir, CONFIG, 2, lambda: known)
    keeper.observe(CHANGED)
    assert not (run_dir.path / FILE).exists(), "nothing is known"
    known |= COSTS
    keeper.observe(JobStarted(0.0, "a", None))
    assert not (run_dir.path / FILE).exists()
    keeper.observe(RunEnded(0.0, 1.0))
    assert find(run_dir, COSTS, CONFIG, 2) == COSTS


def test_what_this_run_has_not_measured_is_taken_from_one_beside_it(tmp_path: Path) -> None:
    before, now = run_in(tmp_path / "before"), run_in(tmp_path / "now")
    keep(before, {"a": Cost(1, 1), "b": Cost(1, 1)})
    keep(now, {"b": COSTS["b"]})
    assert find(now, COSTS, CONFIG, 2) == {"a": Cost(1, 1), "b": COSTS["b"]}


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
        {"jobs": {"a": [10**400, 1.0, 0]}},
        {"jobs": {"a": [1e308, 1.0, 0]}},
        {"jobs": {"a": [1e-320, 1.0, 0]}},
        {"jobs": {"a": [1.0, 1.0, 0.5]}},
        {"jobs": {"a": [True, 1.0, 0]}},
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


@pytest.mark.parametrize("file", ["run.json", FILE])
def test_a_pipe_beside_the_run_is_not_waited_for(tmp_path: Path, file: str) -> None:
    beside = run_in(tmp_path / "beside")
    keep(beside)
    (beside.path / file).unlink()
    os.mkfifo(beside.path / file)
    assert find(run_in(tmp_path / "now"), COSTS, CONFIG, 2) == {}
