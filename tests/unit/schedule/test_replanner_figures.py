"""What the workers' figures say of a job's cost, and of the turns that it has to come."""

from __future__ import annotations

import math

import pytest

from motet.errors import DivergenceError
from motet.schedule.costs import (
    COST_REPORT_LENGTH,
    Cost,
    CostReport,
    SyncSeconds,
    agreed_cost,
    longest,
    sync_seconds,
    typical,
)
from motet.schedule.replanner import drift, remaining_turns


def test_the_worker_that_launched_last_shows_what_a_sync_takes() -> None:
    early = [SyncSeconds(0.5, 0.5), SyncSeconds(0.1, 0.09)]
    late = [SyncSeconds(0.1, 0.08), SyncSeconds(0.7, 0.7)]
    assert sync_seconds([early, late]) == pytest.approx((0.08 + 0.09) / 2)


def test_the_slowest_worker_shows_what_computing_takes() -> None:
    sync = (SyncSeconds(0.2, 0.1),)
    reports = [CostReport(None, compute, num_bytes=100, num_turns=1, syncs=sync) for compute in (0.1, 0.3, 0.2)]
    assert agreed_cost(reports) == Cost(0.3, 0.1, 100)
    reports[1] = CostReport(None)
    assert agreed_cost(reports) is None


def test_workers_that_measured_different_numbers_of_syncs_are_named() -> None:
    sync = SyncSeconds(0.2, 0.1)
    reports = [CostReport(None, 0.1, num_bytes=100, num_turns=2, syncs=syncs) for syncs in ((sync, sync), (sync,))]
    with pytest.raises(DivergenceError, match=r"worker 0: 2, worker 1: 1.*an `if` on the rank"):
        agreed_cost(reports)


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
        sync_seconds([[SyncSeconds(0.1, 0.1)] * 2, [SyncSeconds(0.1, 0.1)]])


@pytest.mark.parametrize(
    "report",
    [CostReport(), CostReport(7), CostReport(None, 0.25, 123, 2, (SyncSeconds(0.5, 0.25), SyncSeconds(0.0, 0.0)))],
)
def test_a_report_of_costs_arrives_as_it_was_sent(report: CostReport) -> None:
    assert len(report.pack()) == COST_REPORT_LENGTH
    assert CostReport.unpack(report.pack()) == report


def test_the_most_turns_that_any_worker_expects_count() -> None:
    assert longest([None, 7, 9]) == 9
    assert longest([None, None]) is None
