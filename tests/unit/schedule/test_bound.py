"""The bound is the same wherever it is told: in results.json, in a replay, and in what observers sum up."""

from __future__ import annotations

import pytest

from motet.events import Event, RunStarted
from motet.gradients.transfer import SyncTiming
from motet.observe.account import Account, estimate
from motet.pipeline.ledger import RunLedger
from motet.pipeline.recorder import Recorder, TurnEnd
from motet.schedule.bound import Work, bound_seconds, efficiency
from motet.schedule.costs import Cost
from motet.schedule.replanner import Replanner
from motet.schedule.replay import SEQUENTIAL
from motet.schedule.replay import bound_seconds as bound_of_costs
from motet.timing.device import Moment


def test_each_term_counts() -> None:
    assert bound_seconds([Work(3.0, 1.0), Work(3.0, 1.0)]) == 6.0  # computing
    assert bound_seconds([Work(1.0, 3.0), Work(1.0, 3.0)]) == 6.0  # the network
    assert bound_seconds([Work(4.0, 3.0), Work(1.0, 1.0)]) == 7.0  # the longest job
    assert bound_seconds([Work(4.0, 3.0, covered_seconds=2.5)]) == 4.5
    assert bound_seconds([]) == 0.0
    assert efficiency(2.0, 4.0) == 0.5
    assert efficiency(2.0, 1.0) == 1.0
    assert efficiency(0.0, 0.0) is None


def books_of(seen: list[Event]) -> tuple[RunLedger, Recorder]:
    ledger = RunLedger()
    return ledger, Recorder(ledger, Replanner(None, ["a"]), seen.append, lambda arrived: None)


def moment(seconds: float) -> Moment:
    return Moment(seconds, seconds)


def turn(recorder: Recorder, begin: float, end: float, waited: float = 0.0) -> None:
    over = TurnEnd(moment(begin), moment(end), waited, 0.0)
    recorder.turn_ended(1, "a", 1, over, synchronizing=True, ended=False, transfers=())


def test_one_job_that_computes_and_then_synchronizes_is_bound_by_both() -> None:
    ledger = RunLedger()
    ledger.computed("a", 1.0)
    ledger.synced("a", SyncTiming(launched=1.0, completed=2.0, link_seconds=1.0))
    ledger.ended("a", "finished", 1, None, None)
    results = ledger.results(["a"], 2, 2.0, ())
    assert (results.bound_seconds, results.efficiency) == (2.0, 1.0)
    assert bound_of_costs({"a": Cost(1.0, 1.0)}, {"a": 1}, SEQUENTIAL) == 2.0


@pytest.mark.parametrize(("launched", "bound"), [(105.0, 10.0), (104.0, 9.0), (103.0, 8.0)])
def test_what_is_recorded_and_what_is_summed_up_agree(launched: float, bound: float) -> None:
    """Five seconds of computing, one of them spent waiting within the turn, and six on the network."""
    seen: list[Event] = [RunStarted(100.0, 0.0, 0, 2, ("a",), ("a",))]
    ledger, recorder = books_of(seen)
    turn(recorder, 100.0, 105.0, waited=1.0)
    figures = SyncTiming(launched, launched + 6.0, link_seconds=6.0, num_bytes=8, launches=[(launched, 8)])
    recorder.synced(1, "a", 1, moment(105.0), figures)
    ledger.ended("a", "finished", 1, None, None)
    account = Account()
    for event in seen:
        account.observe(event)
    assert ledger.results(["a"], 2, 20.0, ()).bound_seconds == bound
    assert estimate(account.jobs, account.network_seconds).bound_seconds == bound
