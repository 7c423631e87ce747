"""With ``--strict-order`` jobs take their turns in the same order on all workers, to the letter."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.distributed.command import Place
from tests.processes.command import HOUSE, place_in

SCRIPT = str(Path(__file__).with_name("strict_script.py"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as place:
        yield place


def turns_of(place: Place, jobs: dict[str, dict[str, int]], *options: str) -> tuple[str, str]:
    """Train, and return in which order the jobs took their turns on each of two workers."""
    content = {name: {"script": SCRIPT, "args": {"name": name, **more}} for name, more in jobs.items()}
    (place.path / "jobs.yaml").write_text(json.dumps({"jobs": content}))
    words = ("run", "--nproc-per-node=2", HOUSE, "--strict-order", "jobs.yaml", "--run-dir=out", *options)
    status, out, err = place.motet(*words)
    assert status == 0, (out, err)
    one, other = ((place.path / f"turns.{worker}").read_text() for worker in range(2))
    return one, other


def test_an_order_that_is_given_is_followed_to_the_letter(place: Place) -> None:
    jobs = {"a": {"steps": 200, "width": 200}, "b": {"steps": 100}, "c": {"steps": 20}}
    one, other = turns_of(place, jobs, "--order=a,b,a,c")
    left = {name: job["steps"] for name, job in jobs.items()}
    expected = ""
    for name in itertools.cycle("abac"):
        if left[name]:
            left[name] -= 1
            expected += name
        if not any(left.values()):
            break
    assert one == expected
    assert other == expected


def test_an_order_that_follows_costs_changes_on_all_workers_after_the_same_turn(place: Place) -> None:
    jobs = {"a": {"steps": 400, "width": 800}, "b": {"steps": 2000}, "c": {"steps": 1500, "width": 100}}
    one, other = turns_of(place, jobs, "--at-once=3", "--verbose")
    assert one == other
    assert {name: one.count(name) for name in jobs} == {name: job["steps"] for name, job in jobs.items()}
    assert not one.startswith("abc" * 300), "another order has begun"
