"""A job starts up until its first backward begins: that is a figure of its own, and no computing."""

from __future__ import annotations

import pytest

from motet.events import Event, RunStarted, TurnEnded
from motet.observe.account import Account
from motet.pipeline.ledger import Accounts
from motet.pipeline.recorder import Bookkeeping, Over
from motet.schedule.replanner import Planning
from motet.timing.device import Moment


def moment(seconds: float) -> Moment:
    return Moment(seconds, seconds)


class Books:
    """A run of jobs that have turns from one moment to another."""

    def __init__(self) -> None:
        self.seen: list[Event] = [RunStarted(100.0, 0.0, 0, 2, ("a", "b"), ("a", "b"))]
        self.accounts = Accounts()
        self.books = Bookkeeping(self.accounts, Planning(None, ["a", "b"]), self.seen.append, lambda arrived: None)

    def turn(self, job: str, begin: float, end: float, first: float | None, *, how: str = "synchronizing") -> None:
        over = Over(moment(begin), moment(end), 0.0, 0.0)
        self.books.turn_ended(
            1, job, 1, over, synchronizing=how == "synchronizing", ended=how == "ended", travels=(),
            first=None if first is None else moment(first),
        )  # fmt: skip

    def figures(self, job: str) -> tuple[float, float]:
        """Return (start-up, computing), which the accounts and whoever observes must tell alike."""
        account = Account()
        for event in self.seen:
            account.observe(event)
        ledger, sums = self.accounts.ledgers[job], account.jobs[job]
        assert (ledger.startup_seconds, ledger.compute_seconds) == (sums.startup_seconds, sums.compute_seconds)
        return ledger.startup_seconds, ledger.compute_seconds


def test_a_job_starts_up_until_its_first_backward() -> None:
    books = Books()
    books.turn("a", 100.0, 130.0, 129.0)
    books.turn("a", 130.0, 132.0, 129.0)
    books.turn("b", 132.0, 135.0, 134.5)
    assert books.figures("a") == (29.0, 3.0)
    assert books.figures("b") == (2.5, 0.5)


def test_turns_given_up_before_the_first_backward_are_start_up() -> None:
    books = Books()
    books.turn("a", 100.0, 104.0, None, how="given up")
    books.turn("a", 104.0, 107.0, 106.0)
    books.turn("a", 107.0, 109.0, 106.0, how="given up")
    assert books.figures("a") == (6.0, 3.0)


def test_a_job_without_any_backward_has_computed() -> None:
    books = Books()
    books.turn("a", 100.0, 104.0, None, how="ended")
    assert books.figures("a") == (0.0, 4.0)


def test_efficiency_leaves_start_up_out() -> None:
    books = Books()
    books.turn("a", 100.0, 108.0, 106.0)
    books.accounts.ended("a", "finished", 1, None, None)
    results = books.accounts.results(["a"], 1, 10.0, ())
    assert results.startup_seconds == results.jobs["a"].startup_seconds == 6.0
    assert results.bound_seconds == 2.0
    assert results.efficiency == pytest.approx(0.5)
    assert [event.startup_seconds for event in books.seen if isinstance(event, TurnEnded)] == [6.0]
