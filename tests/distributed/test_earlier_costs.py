"""What turns cost is kept with a run, and the next run of the same jobs begins with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.distributed.command import Place

from motet.checkpoints.earlier_costs import CostKeeper
from motet.config import RunConfig
from motet.events import OrderChanged
from motet.run_dir import RunDir
from motet.schedule.costs import Cost


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def first_order(run_dir: Path) -> list[str]:
    """Return the order that worker 0's record of a run begins with."""
    part = next(iter(sorted((run_dir / "trace").iterdir())))
    return list(json.loads(part.read_text().splitlines()[0])["order"])


def test_the_next_run_of_the_same_jobs_begins_with_an_order_of_what_they_cost(place: Place) -> None:
    jobs = place.jobs(dear={"every": None}, cheap={"seed": 2, "every": None})
    command = ["run", "--nproc-per-node=2", jobs, "--quiet"]
    assert place.motet(*command, "--run-dir=runs/first")[0] == 0
    assert sorted(first_order(place.path / "runs" / "first")) == ["cheap", "dear"]
    costs = {"dear": Cost(1.0, 10.0), "cheap": Cost(1.0, 0.1)}
    keeper = CostKeeper(RunDir.open(place.path / "runs" / "first"), RunConfig(), 2, lambda: costs)
    keeper.observe(OrderChanged(0.0, (), ""))
    status, out, err = place.motet(*command, "--run-dir=runs/second")
    assert status == 0, (out, err)
    order = first_order(place.path / "runs" / "second")
    assert order.count("cheap") > 3 * order.count("dear")
