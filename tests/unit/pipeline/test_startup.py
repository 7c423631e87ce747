"""A job starts up until its first backward begins: that is a figure of its own, and no computing."""

from __future__ import annotations

import pytest

from motet.events import Event, RunStarted, TurnEnded
from motet.observe.account import Account
from motet.pipeline.ledger import RunLedger
from motet.pipeline.recorder import Recorder, TurnEnd
from motet.schedule.replanner import Replanner
from motet.timing.device import Moment


def moment(seconds: float) -> Moment:
    return Moment(seconds, seconds)


class Books:
    """A run of jobs that have turns from one moment to another."""

    def __init__(self) -> None:
        self.seen: list[Event] = [RunStarted(100.0, 0.0, 0, 2, ("a", "b"), ("a", "b"))]
        self.ledger = RunLedger()
        self.recorder = Recorder(self.ledger, Replanner(None, ["a", "b"]), self.seen.append, lambda arrived: None)

    def turn(self, job: str, begin: float, end: float, first: float | None, *, how: str = "synchronizing") -> None:
        over = TurnEnd(moment(begin), moment(end), 0.0, 0.0)
        self.recorder.turn_ended(
            1, job, 1, over, synchronizing=how == "synchronizing", ended=how == "ended", transfers=(),
            first=None if first is None else moment(first),
        )  # fmt: skip

    def figures(self, job: str) -> tuple[float, float]:
        """Return (start-up, computing), which the accounts and whoever observes must tell alike."""
        account = Account()
        for event in self.seen:
            account.observe(event)
        ledger, sums = self.ledger.totals[job], account.jobs[job]
        assert (ledger.startup_seconds, ledger.compute_seconds) == (sums.startup_seconds, sums.compute_seconds)
        return ledger.startup_seconds, ledger.compute_seconds


def test_a_job_starts_up_until_its_first_backward() -> None:
    recorder = Books()
    recorder.turn("a", 100.0, 130.0, 129.0)
    recorder.turn("a", 130.0, 132.0, 129.0)
    recorder.turn("b", 132.0, 135.0, 134.5)
    assert recorder.figures("a") == (29.0, 3.0)
    assert recorder.figures("b") == (2.5, 0.5)


def test_turns_given_up_before_the_first_backward_are_start_up() -> None:
    recorder = Books()
    recorder.turn("a", 100.0, 104.0, None, how="given up")
    recorder.turn("a", 104.0, 107.0, 106.0)
    recorder.turn("a", 107.0, 109.0, 106.0, how="given up")
    assert recorder.figures("a") == (6.0, 3.0)


def test_a_job_without_any_backward_has_computed() -> None:
    recorder = Books()
    recorder.turn("a", 100.0, 104.0, None, how="ended")
    assert recorder.figures("a") == (0.0, 4.0)


def test_efficiency_leaves_start_up_out() -> None:
    recorder = Books()
    recorder.turn("a", 100.0, 108.0, 106.0)
    recorder.ledger.ended("a", "finished", 1, None, None)
    results = recorder.ledger.results(["a"], 1, 10.0, ())
    assert results.startup_seconds == results.jobs["a"].startup_seconds == 6.0
    assert results.bound_seconds == 2.0
    assert results.efficiency == pytest.approx(0.5)
    assert [event.startup_seconds for event in recorder.seen if isinstance(event, TurnEnded)] == [6.0]
