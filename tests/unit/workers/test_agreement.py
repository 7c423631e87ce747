"""What the workers settle together: the same on all of them, or an error that says who differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from motet.errors import DivergenceError, WorkerFailedError
from motet.workers import agreement
from motet.workers.agreement import FIRST_INTERVAL_SLOTS, Agreements
from motet.workers.messages import (
    GO_ON,
    LENGTH,
    STOP,
    STOP_NOW,
    FilesReport,
    JobEnd,
    Message,
    Periodic,
    SignalsReport,
    unpack,
)

Values = list[float]


class Board:
    """Stands for the board: what other workers published of their failures."""

    def __init__(self, failures: dict[int, str]) -> None:
        self._failures = failures

    def failures(self, within_seconds: float = 0.0) -> dict[int, str]:
        return self._failures


class Others:
    """Stands for the workers: ``answer`` makes, of what this worker tells, what the others do."""

    def __init__(self, answer: Callable[[Values], list[Values]], failures: dict[int, str] | None = None) -> None:
        self.answer = answer
        self.sent: list[Values] = []
        self.finished: list[int] = []
        self.board = Board(failures or {})

    def start_agreement(self, values: Any, job: str | None = None, after: str = "") -> int:
        self.sent.append(list(values))
        return len(self.sent) - 1

    def finish_agreement(self, pending: int) -> list[Values]:
        self.finished.append(pending)
        return [self.sent[pending], *self.answer(self.sent[pending])]


class Time:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    fake = Time()
    monkeypatch.setattr(agreement, "time", fake)
    return fake


def alike(values: Values) -> list[Values]:
    return [list(values)]


def of(answer: Callable[[Any], Message]) -> Callable[[Values], list[Values]]:
    """Return what makes another worker's message of this one's."""
    return lambda values: [answer(unpack(values)).pack()]


def made(answer: Callable[[Values], list[Values]] = alike, failures: dict[int, str] | None = None) -> Any:
    others = Others(answer, failures)
    return Agreements(others), others  # type: ignore[arg-type]


def go_through(agreements: Agreements, slots: range, time: Time, seconds: float, stop: int = GO_ON) -> list[int]:
    """Take slots as the pipeline does, with two live jobs; return those at which an agreement began."""
    begun = []
    for slot in slots:
        time.now += seconds
        if agreements.due(slot):
            agreements.begin(slot, stop=stop, num_live=2)
            begun.append(slot)
        if agreements.ripe(slot):
            agreements.settle()
    return begun


def test_nothing_is_agreed_per_turn(time: Time) -> None:
    agreements, _ = made()
    begun = go_through(agreements, range(1, 2001), time, seconds=0.005)
    assert begun[0] == FIRST_INTERVAL_SLOTS
    assert len(begun) == pytest.approx(2000 * 0.005 / 0.5, rel=0.15), "about twice a second"


def test_the_interval_is_that_of_the_slowest_worker(time: Time) -> None:
    agreements, _ = made(of(lambda mine: replace(mine, seconds=10 * mine.seconds)))
    begun = go_through(agreements, range(1, 2001), time, seconds=0.005)
    assert begun[5] - begun[4] == pytest.approx(10, abs=2), "0.5 s of 50 ms each"


def test_an_agreement_is_looked_at_one_round_after_it_began(time: Time) -> None:
    agreements, others = made()
    agreements.begin(8, stop=GO_ON, num_live=3)
    assert not agreements.due(100), "one at a time"
    assert [slot for slot in range(8, 13) if agreements.ripe(slot)] == [11, 12]
    agreements.settle()
    assert others.finished == [0]
    assert not agreements.ripe(12)


def test_an_agreement_at_once_is_looked_at_in_its_slot_and_takes_the_place_of_one_under_way(time: Time) -> None:
    agreements, others = made()
    agreements.begin(8, stop=GO_ON, num_live=3, costs=[1.0])
    agreements.begin(9, stop=GO_ON, num_live=3, costs=[1.0, 2.0], at_once=True)
    assert others.finished == [0, 1], "one at a time"
    assert agreements.ripe(9)
    agreements.settle()
    assert agreements.take_reports() == [[1.0, 2.0]] * 2
    assert agreements.take_reports() is None


def test_one_worker_is_asked_to_stop_and_all_do(time: Time) -> None:
    agreements, _ = made(of(lambda mine: replace(mine, stop=STOP)))
    go_through(agreements, range(1, 20), time, seconds=0.01)
    assert agreements.stop == STOP


def test_the_clock_is_worker_0s_and_no_other(time: Time) -> None:
    agreements, _ = made(of(lambda mine: replace(mine, clock_seconds=mine.clock_seconds + 50.0)))
    time.now += 3.0
    agreements.begin(8, stop=GO_ON, num_live=1)
    agreements.settle()
    assert agreements.clock_seconds == 3.0


def test_a_stop_that_cannot_wait_any_longer_is_not_taken_back(time: Time) -> None:
    agreements, _ = made()
    go_through(agreements, range(1, 12), time, seconds=0.01, stop=STOP_NOW)
    go_through(agreements, range(12, 100), time, seconds=0.01)
    assert agreements.stop == STOP_NOW


def test_other_turns_on_another_worker_are_found(time: Time) -> None:
    agreements, others = made()
    agreements.note("a", 1, 7)
    agreements.begin(8, stop=GO_ON, num_live=1)
    elsewhere, _ = made()
    elsewhere.note("b", 1, 7)
    others.answer = of(lambda mine: replace(mine, signature=elsewhere._signature))
    with pytest.raises(DivergenceError, match=r"different turns.*\n  worker 0: slot 8.*\n  worker 1: slot 8") as error:
        agreements.settle()
    assert "no_sync()" in str(error.value)


@pytest.mark.parametrize("other", [("a", 2, 7), ("b", 1, 7), ("a", 1, 8)])
def test_the_signature_tells_turns_apart(time: Time, other: tuple[str, int, int]) -> None:
    one, sent_by_one = made()
    two, sent_by_two = made()
    one.note("a", 1, 7)
    two.note(*other)
    for agreements in (one, two):
        agreements.begin(8, stop=GO_ON, num_live=1)
    signatures = [unpack(others.sent[0]).signature for others in (sent_by_one, sent_by_two)]
    assert signatures[0] != signatures[1]


def test_costs_are_reported_once(time: Time) -> None:
    agreements, _ = made(lambda values: [[value + 1 for value in values]] if len(values) == 2 else alike(values))
    agreements.begin(8, stop=GO_ON, num_live=1, costs=[1.0, 2.0])
    assert agreements.take_reports() is None
    agreements.settle()
    assert agreements.take_reports() == [[1.0, 2.0], [2.0, 3.0]]
    assert agreements.take_reports() is None


FINISHED = JobEnd(0, "finished", num_synced=6, num_left=0)
FAILED = replace(FINISHED, status="failed")


def test_a_job_that_ended_alike_everywhere(time: Time) -> None:
    agreements, others = made()
    agreements.all_ended_alike("a", FINISHED)
    assert others.finished == [0]


def test_what_is_under_way_is_settled_before_a_job_ends(time: Time) -> None:
    agreements, others = made()
    agreements.begin(8, stop=GO_ON, num_live=2)
    agreements.all_ended_alike("a", FINISHED)
    assert others.finished == [0, 1]
    assert not agreements.ripe(100)


def test_a_job_with_fewer_turns_on_another_worker(time: Time) -> None:
    agreements, _ = made(of(lambda mine: replace(mine, num_synced=5)))
    with pytest.raises(DivergenceError) as error:
        agreements.all_ended_alike("a", FINISHED)
    text = str(error.value)
    assert "Job 'a'" in text
    assert "worker 0: finished after 6 synchronized turns" in text
    assert "worker 1: finished after 5 synchronized turns" in text


def test_a_job_that_has_not_ended_on_another_worker(time: Time) -> None:
    agreements, _ = made(of(lambda mine: Periodic(24, mine.signature)))
    with pytest.raises(DivergenceError, match=r"worker 1: has not ended it \(it is at slot 24\)"):
        agreements.all_ended_alike("a", FINISHED)


def test_another_job_that_has_ended_on_another_worker(time: Time) -> None:
    agreements, _ = made(of(lambda mine: replace(mine, index=2)))
    with pytest.raises(DivergenceError, match="worker 1: has ended another one, job number 3 of the run"):
        agreements.all_ended_alike("a", FINISHED)


def test_a_job_that_failed_on_one_worker(time: Time) -> None:
    agreements, _ = made(of(lambda mine: replace(mine, status="failed")), {1: "worker 1, job 'a', turn 7: no memory"})
    with pytest.raises(WorkerFailedError) as error:
        agreements.all_ended_alike("a", FINISHED)
    assert "Job 'a' failed on worker 1 alone" in str(error.value)
    assert "worker 1, job 'a', turn 7: no memory" in str(error.value)


def test_failed_and_stopped_are_alike_where_any_worker_is_asked_to_stop(time: Time) -> None:
    asked, _ = made(of(lambda mine: replace(mine, status="stopped", stop=STOP)))
    asked.all_ended_alike("a", FAILED)
    assert asked.stop == STOP
    nobody, _ = made(of(lambda mine: replace(mine, status="stopped")))
    with pytest.raises(WorkerFailedError, match="failed on worker 0 alone"):
        nobody.all_ended_alike("a", FAILED)
    elsewhere, _ = made(of(lambda mine: Periodic(24, mine.signature, stop=STOP)))
    with pytest.raises(WorkerFailedError):
        elsewhere.all_ended_alike("a", FAILED)
    assert elsewhere.stop == STOP, "nobody is charged"


def test_a_job_that_failed_on_all_workers_with_buckets_under_way_on_one(time: Time) -> None:
    agreements, _ = made(of(lambda mine: replace(mine, num_left=2)))
    with pytest.raises(DivergenceError, match="worker 1: failed after 6 synchronized turns, with 2 buckets under way"):
        agreements.all_ended_alike("a", FAILED)


def test_other_turns_are_found_when_a_job_ends_though_it_ended_alike(time: Time) -> None:
    agreements, _ = made(of(lambda mine: replace(mine, signature=mine.signature + 1)))
    with pytest.raises(DivergenceError) as error:
        agreements.all_ended_alike("a", FINISHED)
    assert "different gradients" in str(error.value), "two equal lines would say nothing"
    assert "no_sync()" in str(error.value)


def test_a_job_that_has_ended_where_others_come_to_their_next_agreement(time: Time) -> None:
    agreements, _ = made(of(lambda mine: replace(FINISHED, signature=0xABC)))
    agreements.begin(8, stop=GO_ON, num_live=1)
    with pytest.raises(DivergenceError, match="worker 1: a job has ended there, signature of all turns 00000abc"):
        agreements.settle()


@pytest.mark.parametrize(
    "message",
    [
        Periodic(7, 0xFFFFFFFF, STOP, 0.25, 9, 123.5, FilesReport(2.0, 3.0), SignalsReport(2.0**52, 5.0)),
        JobEnd(4, "pruned", num_synced=6, num_left=2, signature=0xFFFFFFFF, stop=STOP_NOW),
    ],
)
def test_a_message_arrives_as_it_was_sent(message: Message) -> None:
    assert len(message.pack()) == LENGTH
    assert unpack(message.pack()) == message


def test_files_and_signals_are_reported_by_all(time: Time) -> None:
    theirs = FilesReport(1.0, 2.0), SignalsReport(3.0, 4.0)
    agreements, _ = made(of(lambda mine: replace(mine, files=theirs[0], signals=theirs[1])))
    agreements.begin(8, stop=GO_ON, num_live=1, files=FilesReport(0.0, 7.0), signals=SignalsReport(1.0, 0.0))
    agreements.settle()
    assert agreements.take_files() == [FilesReport(0.0, 7.0), theirs[0]]
    assert agreements.take_signals() == [SignalsReport(1.0, 0.0), theirs[1]]
