"""What the workers' figures say of a job's cost, and of the turns that it has to come."""

from __future__ import annotations

import math

import pytest

from motet.errors import DivergenceError
from motet.schedule.order import Cost
from motet.schedule.replanner import FIGURES_PER_JOB, agreed_cost, drift, remaining_turns, sync_seconds, typical


def test_the_worker_that_launched_last_tells_what_a_sync_takes() -> None:
    early, late = [(0.5, 0.5), (0.1, 0.09)], [(0.1, 0.08), (0.7, 0.7)]
    assert sync_seconds([early, late]) == pytest.approx((0.08 + 0.09) / 2)


def test_the_slowest_worker_tells_what_computing_takes() -> None:
    figures = [[compute, 100.0, -1.0, 1.0, 0.2, 0.1] + [-1.0] * (FIGURES_PER_JOB - 6) for compute in (0.1, 0.3, 0.2)]
    assert agreed_cost(figures) == Cost(0.3, 0.1, 100)
    figures[1][0] = -1.0
    assert agreed_cost(figures) is None


def test_workers_that_measured_different_numbers_of_syncs_are_named() -> None:
    figures = [[0.1, 100.0, -1.0, 2.0, 0.2, 0.1, 0.2, 0.1] + [-1.0] * (FIGURES_PER_JOB - 8) for _ in range(2)]
    figures[1][6:8] = [-1.0, -1.0]
    with pytest.raises(DivergenceError, match=r"worker 0: 2, worker 1: 1.*an `if` on the rank"):
        agreed_cost(figures)


def test_one_stall_does_not_move_what_is_typical() -> None:
    assert typical([1.0, 1.1, 0.9, 1.0, 1.0, 60.0]) == pytest.approx(1.0, abs=0.05)
    assert typical([9.0, 1.0, 3.0]) == 3.0
    assert typical([2.0]) == 2.0


def test_drift_is_relative_to_what_a_turn_takes_alone() -> None:
    assert drift(Cost(1, 3), Cost(1, 4)) == 0.25
    assert drift(Cost(1, 3), Cost(0, 3)) == 0.25
    assert drift(Cost(0, 0), Cost(0, 0)) == 0.0
    assert drift(Cost(0, 0), Cost(1, 0)) == math.inf


def test_a_job_that_outlives_its_turns_has_one_to_come() -> None:
    assert remaining_turns({"a": 10, "b": None}, {"a": 12, "b": 3, "c": 0}) == {"a": 1, "b": None, "c": None}


def test_workers_that_synchronized_different_numbers_of_turns_are_named() -> None:
    with pytest.raises(DivergenceError, match=r"worker 0: 2, worker 1: 1"):
        sync_seconds([[(0.1, 0.1), (0.1, 0.1)], [(0.1, 0.1)]])
