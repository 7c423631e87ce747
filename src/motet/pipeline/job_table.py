"""The jobs of a run on this worker: which one's turn is next, and where each of them is in its life.

===========  ==========================================================  ==========================================
state        what it means                                               ends when
===========  ==========================================================  ==========================================
waiting      known to the source, or asked for and without room          there is room (`JobTable.admit`)
admitted     has a lane, a handle and a coroutine; no turn taken yet     its first turn begins
computing    has its turn, until ``backward()`` has sent gradients       the turn ends (`motet.coroutines.Turns.end`)
in flight    its gradients are on the network, others compute            its next turn is due, and waits for them
synced       they have arrived, and are where the optimizer looks        its next turn begins: computing, again
ended        its loop has returned, failed, or was stopped               all workers report the same (`agree_on_end`)
concluded    its lane, groups and streams are given back                 its last checkpoint is on the disk
===========  ==========================================================  ==========================================

From *admitted* to *ended* a job is *live*. Every step happens in the same slot on all workers.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from types import MappingProxyType

from motet.coroutines import RunningJob
from motet.jobs import Job
from motet.jobs.source import JobSource
from motet.schedule.order import Cursor, Order


class JobTable:
    """All jobs of a run. ``source`` gives them, in ``order`` they take their turns."""

    def __init__(self, source: JobSource, order: Order) -> None:
        self._source = source
        self._cursor = Cursor(order)
        self._live: dict[str, RunningJob] = {}
        self._waiting: Job | None = None  # asked for, and without room yet
        self._to_raise: dict[str, BaseException] = {}

    @property
    def live(self) -> Mapping[str, RunningJob]:
        """The jobs that were admitted and have not ended; a view, which follows."""
        return MappingProxyType(self._live)

    @property
    def order(self) -> Order:
        """The order that is followed."""
        return self._cursor.order

    def follow(self, order: Order) -> None:
        """Follow another order from the next slot on."""
        self._cursor.change(order)

    def next(self, among: Collection[str] | None = None) -> RunningJob:
        """Return the live job whose turn it is, and go on in the order; of ``among`` only, if given."""
        return self._live[self._cursor.next(self._live if among is None else among)]

    def following(self) -> str | None:
        """Return the job whose turn comes after this one, as far as can be said now."""
        return copy.copy(self._cursor).next(self._live) if self._live else None

    def num_synced(self) -> dict[str, int]:
        """Return how many turns each live job has synchronized."""
        return {name: job.num_synced for name, job in self._live.items()}

    def expected(self) -> dict[str, int | None]:
        """Return how many turns each live job will take, where it has said so."""
        return {name: job.num_turns for name, job in self._live.items()}

    def candidate(self) -> Job | None:
        """Return the job that is to be admitted next; the same one until it is."""
        if self._waiting is None:
            self._waiting = self._source.next_job()
        return self._waiting

    def admit(self, job: RunningJob) -> None:
        """Let the candidate, made to run, take its turns."""
        assert self._waiting is not None
        assert self._waiting.name == job.name
        self._waiting = None
        self._live[job.name] = job

    def remove(self, job: RunningJob) -> None:
        """Take a job out that has ended."""
        del self._live[job.name]

    def stop_waiting(self) -> list[str]:
        """Admit no more jobs; return the names of those that never began."""
        waiting = [] if self._waiting is None else [self._waiting.name]
        self._waiting = None
        return [*waiting, *self._source.stop()]

    def raise_in(self, job: str, error: BaseException) -> None:
        """Have ``error`` raised inside a job when its next turn begins."""
        self._to_raise[job] = error

    def take_error(self, job: str) -> BaseException | None:
        """Return what is to be raised inside a job now, once."""
        return self._to_raise.pop(job, None)
