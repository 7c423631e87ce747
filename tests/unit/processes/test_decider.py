"""A job's seat is in the order: from its start, when it joins later, and when it starts again."""

from __future__ import annotations

from typing import cast

import pytest

from motet.processes.decider import Decider
from motet.processes.exchange import Exchange
from motet.processes.messages import Command, Conclude, ExitReport, FailRequest, FollowOrder, RoomReport, StartJob
from motet.processes.process_job import ProcessJob
from motet.processes.search import ListedSource
from motet.schedule.costs import Cost
from motet.schedule.order import Order

ROOMY = 1 << 40


class Sent:
    """Stands for the way to the workers, of whom there are two."""

    worker, num_workers = 0, 2

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.shown: list[tuple[str, str]] = []

    def broadcast(self, command: Command) -> None:
        self.commands.append(command)


def decider(names: str, order: str | None, at_once: int, *, by_memory: bool = False) -> tuple[Decider, Sent]:
    sent = Sent()
    source = ListedSource([ProcessJob(name, None, {}) for name in names])
    given = None if order is None else Order(tuple(order))
    made = Decider(
        cast(Exchange, sent),
        source,
        given,
        at_once,
        by_memory,
        lambda name, attempt, verdict: attempt == 0,
        lambda name, text: sent.shown.append((name, text)),
    )
    made.begin()
    return made, sent


def test_what_turns_cost_when_the_jobs_last_ran_makes_the_first_order() -> None:
    sent = Sent()
    source = ListedSource([ProcessJob(name, None, {}) for name in "ab"])
    earlier = {"a": Cost(1.0, 10.0), "b": Cost(1.0, 0.1)}
    ignored = (lambda *_: False, lambda *_: None)
    Decider(cast(Exchange, sent), source, None, 2, False, *ignored, earlier_costs=earlier).begin()
    assert last_order(sent).count("b") == 10 * last_order(sent).count("a")


def fails_on_worker_1(made: Decider, name: str, attempt: int) -> None:
    made.receive(1, ExitReport(name, attempt, "failed", 3, "RuntimeError", "boom", 1, ""))
    made.receive(0, ExitReport(name, attempt, "", 3, "", None, -9, ""))


def last_order(sent: Sent) -> list[str]:
    return list(next(each for each in reversed(sent.commands) if isinstance(each, FollowOrder)).turns)


def test_a_job_that_starts_again_has_its_turns_of_the_order() -> None:
    made, sent = decider("ab", "abbb", 2)
    assert last_order(sent) == ["a", "b", "b", "b"]
    sent.commands.clear()
    fails_on_worker_1(made, "b", 0)
    assert [each for each in sent.commands if isinstance(each, StartJob)] == [StartJob("b", 1, 1, None)]
    assert last_order(sent) == ["a", "b", "b", "b"]


@pytest.mark.parametrize("order", ["abb", None])
def test_a_job_that_joins_where_there_is_room_is_put_into_the_order(order: str | None) -> None:
    made, sent = decider("ab", order, 2, by_memory=True)
    assert last_order(sent) == ["a"]
    for worker in (0, 1):
        made.receive(worker, RoomReport(1, (ROOMY, 1, ROOMY), None))
    assert sorted(set(last_order(sent))) == ["a", "b"]


def test_what_an_earlier_process_of_a_job_did_fails_no_later_one() -> None:
    made, sent = decider("ab", None, 2)
    fails_on_worker_1(made, "b", 0)
    made.receive(1, FailRequest("b", "it stood still", attempt=0))
    made.receive(0, ExitReport("b", 1, "finished", 9, "", None, 0, ""))
    made.receive(1, ExitReport("b", 1, "finished", 9, "", None, 0, ""))
    ended = [each for each in sent.commands if isinstance(each, Conclude)]
    assert [(each.name, each.status) for each in ended] == [("b", "finished")]
    made.receive(1, FailRequest("a", "it stood still", attempt=0))
    for worker in (0, 1):
        made.receive(worker, ExitReport("a", 0, "", 9, "", None, -9, ""))
    ended = [each for each in sent.commands if isinstance(each, Conclude)]
    assert (ended[-1].status, ended[-1].error) == ("failed", "it stood still")


BOOM = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\nValueError: boom'
ECHO = "RuntimeError: Connection closed by peer"


@pytest.mark.parametrize(
    ("on_0", "on_1", "shown"),
    [
        ((ECHO, 1), (BOOM, 1), [f"on worker 1 alone, in turn 4:\n{BOOM}"]),
        ((None, -9), (None, 7), ["on worker 1 alone, in turn 4: its process ended with exit status 7"]),
        ((ECHO, 1), (ECHO, 1), [f"on worker 1 alone, in turn 4: {ECHO}"]),
        ((BOOM, 1), (ECHO, 1), []),  # worker 0's process has printed that
        ((BOOM, 1), (BOOM, 1), []),
        ((None, 7), (None, 7), ["its process ended with exit status 7"]),
    ],
)
def test_why_a_job_failed_is_shown_where_worker_0s_process_has_not(
    on_0: tuple[str | None, int], on_1: tuple[str | None, int], shown: list[str]
) -> None:
    made, sent = decider("ab", None, 2)
    for worker, (error, exit_status) in ((1, on_1), (0, on_0)):
        made.receive(worker, ExitReport("a", 0, "failed" if error else "", 3, "E", error, exit_status, ""))
    assert sent.shown == [("a", text) for text in shown]
