"""What turns cost is kept with a run, and the next run of the same jobs begins with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.distributed.command import HOUSED, Place

from motet.checkpoints.earlier_costs import FILE


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def first_order(run_dir: Path) -> list[str]:
    """Return the order that worker 0's record of a run begins with."""
    part = next(iter(sorted((run_dir / "trace").iterdir())))
    return list(json.loads(part.read_text().splitlines()[0])["order"])


def make_dear(path: Path, job: str) -> None:
    """Have a run's kept costs say that a job's turns take far longer than others', above all to synchronize."""
    content = json.loads(path.read_text())
    for name, cost in content["jobs"].items():
        cost[:2] = (1.0, 10.0) if name == job else (1.0, 0.1)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("house", list(HOUSED))
def test_a_run_keeps_what_turns_cost(place: Place, house: str) -> None:
    slow = {"every": None, "steps": 150, "pause": 0.02}
    jobs = place.jobs(house, one=slow, other=slow)
    status, out, err = place.motet("run", "--nproc-per-node=2", f"--house={house}", jobs, "--quiet", "--run-dir=run")
    assert status == 0, (out, err)
    content = json.loads((place.path / "run" / FILE).read_text())
    assert content["workers"] == 2
    assert content["house"] == house
    assert all(cost[0] > 0 and cost[2] > 0 for cost in content["jobs"].values())
    assert content["jobs"].keys() == {"one", "other"}


def test_the_next_run_and_a_resumed_one_begin_with_it(place: Place) -> None:
    jobs = place.jobs(dear={"steps": 20}, cheap={"seed": 2, "steps": 20}, done={"seed": 3, "steps": 5})
    command = ["run", "--nproc-per-node=2", jobs, "--quiet"]
    status, out, err = place.motet(*command, "--run-dir=runs/first")
    assert status == 0, (out, err)
    assert sorted(first_order(place.path / "runs" / "first")) == ["cheap", "dear", "done"]
    make_dear(place.path / "runs" / "first" / FILE, "dear")
    status, out, err = place.motet(*command, "--run-dir=runs/second")
    assert status == 0, (out, err)
    order = first_order(place.path / "runs" / "second")
    assert order.count("cheap") > 3 * order.count("dear")
