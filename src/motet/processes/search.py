"""Jobs that worker 0 decides on as it goes: a search, whose trials ask the process that knows the study.

The study stays where it was opened, in worker 0's own process. A trial's processes begin with what it was begun with;
that on worker 0 asks its worker (`AsksWorker.ask`), and broadcasts the answer to those on the others.
"""

from __future__ import annotations

import base64
import itertools
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from motet.errors import GangError
from motet.jobs.source import ListedJobs
from motet.processes.channel import Channel
from motet.processes.exchange import Exchange
from motet.processes.job_messages import Answer, Question
from motet.processes.peers import Peers
from motet.processes.process_job import ProcessJob
from motet.processes.turns import JobTurns
from motet.results import JobResult


class Source(Protocol):
    """Gives worker 0 its next job whenever there is room."""

    @property
    def names(self) -> Sequence[str]:
        """The names of all jobs so far."""

    def next_job(self) -> ProcessJob | None:
        """Return the next job, or None if there is none now; asked again when a job has ended."""

    def job_ended(self, name: str, result: JobResult) -> None:
        """Take note of how a job ended, before `next_job` is asked for another."""

    def stop(self) -> Sequence[str]:
        """The run stops: give no more jobs; return the names of those that were never started."""

    def answer(self, name: str, question: Any) -> Any:
        """Return what a job asks for; what this raises is raised there."""


class LivelySource:
    """A source of somebody's code, which may take long: meanwhile the other workers learn that worker 0 lives."""

    def __init__(self, source: Source, exchange: Exchange) -> None:
        self._source = source
        self._exchange = exchange

    @property
    def names(self) -> Sequence[str]:
        """The names of all jobs so far."""
        return self._source.names

    def next_job(self) -> ProcessJob | None:
        """Return the next job."""
        with self._exchange.beating():
            return self._source.next_job()

    def job_ended(self, name: str, result: JobResult) -> None:
        """Take note of how a job ended."""
        with self._exchange.beating():
            self._source.job_ended(name, result)

    def stop(self) -> Sequence[str]:
        """Give no more jobs."""
        return self._source.stop()

    def answer(self, name: str, question: Any) -> Any:
        """Return what a job asks for."""
        with self._exchange.beating():
            return self._source.answer(name, question)


class ListedSource(ListedJobs[ProcessJob]):
    """The jobs of a list, which ask for nothing."""

    def answer(self, name: str, question: Any) -> Any:
        """Nobody asks."""
        raise AssertionError(f"{name} asks {question}")


class AsksWorker:
    """What a job's process has of a search. ``worker``: which one this is; on worker 0 alone it may `ask`."""

    def __init__(self, channel: Channel, wakes: int, peers: Peers, turns: JobTurns) -> None:
        self._channel = channel
        self._wakes = wakes
        self._peers = peers
        self._turns = turns
        self._numbers = itertools.count(1)  # several threads may ask
        self.worker = peers.worker

    def ask(self, question: Any) -> Any:
        """Return what the worker's source answers. Blocks, without the turn."""
        with self._turns.away():
            answer = self._channel.ask(Question(next(self._numbers), _packed(question)), self._wakes)
        if answer is None:
            raise GangError("the worker of this job has gone")
        well, value = pickle.loads(base64.b64decode(answer.content))
        if not well:
            raise value
        return value

    def broadcast(self, make_text: Callable[[], str], key: str) -> str:
        """Call ``make_text`` on worker 0, return its text in all processes of the job. Blocks, without the turn."""
        with self._turns.away():
            return self._peers.broadcast_from_0(make_text, key=key)


@dataclass(frozen=True)
class Search:
    """``make_source`` is called on every worker, and returns the source on worker 0; ``train`` runs a job's loop.

    ``ended`` is called on every worker when all jobs have ended.
    """

    make_source: Callable[[Peers], Source | None]
    train: Callable[[str, Mapping[str, Any], AsksWorker], object]
    ended: Callable[[Peers], None]


def answer_to(source: Source, name: str, question: Question) -> Answer:
    """Answer what a job asks."""
    try:
        content = _packed((True, source.answer(name, pickle.loads(base64.b64decode(question.content)))))
    except Exception as error:
        content = _packed((False, portable(error)))
    return Answer(question.number, content)


def portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process: itself, or one that says as much."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _packed(value: Any) -> str:
    return base64.b64encode(pickle.dumps(value)).decode()  # for another process of this run
