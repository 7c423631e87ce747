"""The socket between a job and its worker: several threads that ask, questions broken off, a job that does not read."""

from __future__ import annotations

import fcntl
import io
import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest

from motet.processes.channel import Channel, WorkerChannel
from motet.processes.job_messages import Answer, FrozenAnswer, FrozenFile, Question
from motet.processes.local import LocalJobs
from motet.processes.search import AsksWorker, answer_to

LARGE = "x" * 3_000_000  # more than a socket holds


class Ends:
    def __init__(self) -> None:
        here, there = socket.socketpair()
        self.worker, self.job, self.wakes = WorkerChannel(here), Channel(there), os.eventfd(0)

    def asks_worker(self) -> AsksWorker:
        peers, turns = SimpleNamespace(worker=0), SimpleNamespace(away=nullcontext)
        return AsksWorker(self.job, self.wakes, cast(Any, peers), cast(Any, turns))

    def questions(self) -> Iterator[Question]:
        """Yield what the job asks, until it has closed its end."""
        while not self._at_end():
            for question in self.worker.received():
                assert isinstance(question, Question)
                yield question

    def _at_end(self) -> bool:
        self.worker.wait(60)
        return self.worker._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.worker.close()
    ends.job.close()
    os.close(ends.wakes)


class Echo:
    """A source that answers with what it was asked."""

    def answer(self, name: str, question: Any) -> Any:
        return question


def test_two_threads_that_ask_at_once_get_each_its_own_answer(ends: Ends) -> None:
    asks, got = ends.asks_worker(), dict[int, list[int]]()

    def ask(first: int) -> None:
        got[first] = [asks.ask(first + number) for number in range(200)]

    threads = [threading.Thread(target=ask, args=(first,), daemon=True) for first in (0, 1000)]
    for thread in threads:
        thread.start()

    def close_when_done() -> None:
        for thread in threads:
            thread.join(15)
        ends.job._socket.shutdown(socket.SHUT_RDWR)  # the loop below ends, also if one waits for ever

    closer = threading.Thread(target=close_when_done)
    closer.start()
    for question in ends.questions():
        ends.worker.send(answer_to(cast(Any, Echo()), "a", question))
    closer.join()
    assert got == {first: [first + number for number in range(200)] for first in (0, 1000)}


def test_who_reads_meanwhile_leaves_the_answer_to_the_thread_that_asks(ends: Ends) -> None:
    got: list[Answer | None] = []
    asker = threading.Thread(target=lambda: got.append(ends.job.ask(Question(1, ""), ends.wakes)), daemon=True)
    asker.start()
    ends.worker.wait(60)
    assert list(ends.worker.received()) == [Question(1, "")]
    ends.worker.send(FrozenAnswer(1, ["a"]))
    ends.worker.send(Answer(1, "well"))
    received = list(ends.job.received())
    asker.join(15)
    assert got == [Answer(1, "well")]
    assert received + list(ends.job.received()) == [FrozenAnswer(1, ["a"])]


def test_a_question_broken_off_in_the_middle_of_its_answer_leaves_the_next_one_well(ends: Ends) -> None:
    ends.worker.send(Answer(1, LARGE))
    assert ends.worker.has_unsent
    assert list(ends.job.received()) == [], "question 1 has read a part of its answer, and a signal's handler raises"
    ends.worker.send(Answer(2, "well"))

    def send_rest() -> None:
        for _ in range(100_000):
            ends.worker.flush()
            if not ends.worker.has_unsent:
                break

    rest = threading.Thread(target=send_rest)
    rest.start()
    assert ends.job.ask(Question(2, ""), ends.wakes) == Answer(2, "well")
    rest.join()
    ends.worker.close()
    assert ends.job.ask(Question(3, ""), ends.wakes) is None, "the worker is gone"


def test_a_worker_does_not_wait_for_a_job_that_does_not_read(ends: Ends) -> None:
    ends.worker._socket.settimeout(0.0)  # what would block fails
    with open(os.devnull, "rb") as file:
        expected = [Answer(1, LARGE), FrozenFile(1, {"a": 0}), FrozenAnswer(1, ["a"])]
        ends.worker.send(expected[0])
        ends.worker.send(expected[1], file.fileno())
        ends.worker.send(expected[2])
        opened = os.fstat(file.fileno())
    assert ends.worker.has_unsent, "and the file is closed here by now"
    received: list[object] = []
    while ends.worker.has_unsent:
        received += ends.job.received()
        ends.worker.flush()
    received += ends.job.received()
    assert received == expected
    taken = ends.job.take_file()
    assert taken is not None
    assert os.fstat(taken) == opened
    os.close(taken)


def test_the_loop_sends_later_what_a_job_did_not_read() -> None:
    class Parent:
        def start(self, start: object, there: socket.socket, *files: int) -> int:
            self.job = Channel(there.dup())
            return 0

    parent, start = Parent(), SimpleNamespace(name="a", seat=0)
    table = SimpleNamespace(open_seat=lambda seat: None, close_seat=lambda seat, wake: None)
    streams = (io.StringIO(), io.StringIO())
    local = LocalJobs(cast(Any, parent), cast(Any, table), (), 0, 0, lambda name: None, streams, everybody=False)
    local.start(cast(Any, start))
    local.live["a"].channel.send(Answer(1, LARGE))
    answers: list[object] = []
    for _ in range(1000):
        answers += parent.job.received()
        if answers:
            break
        assert list(local.reports()) == []
    assert answers == [Answer(1, LARGE)]
    local.close(local.live["a"])
    parent.job.close()


def test_what_a_job_that_has_gone_was_to_be_sent_is_dropped(ends: Ends) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ends.worker.send(Answer(1, LARGE))
    with open(os.devnull, "rb") as file:
        ends.worker.send(FrozenFile(1, {}), file.fileno())
    assert len(os.listdir("/proc/self/fd")) == before + 1
    ends.job.close()
    ends.worker.flush()
    assert not ends.worker.has_unsent
    assert len(os.listdir("/proc/self/fd")) == before - 1


@contextmanager
def no_more_files() -> Iterator[None]:
    """Allow for no more open files than there are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_file_for_which_there_is_no_room_is_none(ends: Ends) -> None:
    with open(os.devnull, "rb") as file:
        ends.worker.send(FrozenFile(1, {}), file.fileno())
    with no_more_files():
        assert list(ends.job.received()) == [FrozenFile(1, {})]
        assert ends.job.take_file() is None


def test_a_file_of_which_no_copy_can_be_made_is_not_sent(ends: Ends) -> None:
    with open(os.devnull, "rb") as file, no_more_files(), pytest.raises(OSError, match="Too many open files"):
        ends.worker.send(FrozenFile(1, {}), file.fileno())
    assert not ends.worker.has_unsent
    assert list(ends.job.received()) == []


@pytest.fixture
def many_files() -> Iterator[None]:
    """Allow for more open files than `select.select` knows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1100:
        pytest.skip("this machine allows for 1100 open files at most")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1100), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_files_may_have_numbers_above_1023(many_files: None) -> None:
    here, there = socket.socketpair()
    worker = WorkerChannel(here)
    job = Channel(socket.socket(fileno=fcntl.fcntl(there.detach(), fcntl.F_DUPFD_CLOEXEC, 1024)))
    low = os.eventfd(0, os.EFD_NONBLOCK)
    asked = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1024)
    os.close(low)
    worker.send(Answer(1, "well"))
    assert job.ask(Question(1, ""), asked) == Answer(1, "well")
    nobody = cast(Any, None)
    jobs = LocalJobs(nobody, nobody, (), asked, 0, lambda name: None, nobody, everybody=False)
    jobs.wait_until_asked(60)
    with pytest.raises(BlockingIOError):  # read already
        os.eventfd_read(asked)
    os.close(asked)
    worker.close()
    job.close()
