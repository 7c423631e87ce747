"""Where the jobs of a run come from: a list, or somebody who decides what is trained next (a search)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from typing import Generic, Protocol, TypeVar

from motet.jobs import Job
from motet.results import JobResult


class Named(Protocol):
    """A job, wherever it is to live."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def turns(self) -> int | None:
        """How many turns it will take, where that is known."""


Listed = TypeVar("Listed", bound=Named)


class JobSource(Protocol):
    """Gives the pipeline its next job whenever there is room.

    Every method is called on all workers alike, at the same slot, and must answer alike; a source whose decisions
    come from one place lets worker 0 decide and broadcasts it (`motet.workers.Workers.broadcast_from_0`).
    """

    @property
    def names(self) -> Sequence[str]:
        """The names of all jobs so far, in a lasting order: those given out, and those known to come."""

    def next_job(self) -> Job | None:
        """Return the next job, or None if there is none now; asked again when a job has ended."""

    def job_ended(self, name: str, result: JobResult) -> None:
        """Take note of how a job ended, before `next_job` is asked for another."""

    def stop(self) -> Sequence[str]:
        """The run stops: give no more jobs; return the names of those that were never started."""


class ListedJobs(Generic[Listed]):
    """The jobs of a list, in its order."""

    def __init__(self, jobs: Sequence[Listed]) -> None:
        self._waiting = deque(jobs)
        self._names = tuple(job.name for job in jobs)

    def leave_out(self, names: Collection[str]) -> None:
        """Take these jobs off the list, before any is given out."""
        self._waiting = deque(job for job in self._waiting if job.name not in names)
        self._names = tuple(job.name for job in self._waiting)

    @property
    def names(self) -> Sequence[str]:
        """The names of all jobs."""
        return self._names

    @property
    def turns(self) -> dict[str, int | None]:
        """How many turns each job that was not given out yet will take, where that is known."""
        return {job.name: job.turns for job in self._waiting}

    def next_job(self) -> Listed | None:
        """Return the next job of the list, or None at its end."""
        return self._waiting.popleft() if self._waiting else None

    def job_ended(self, name: str, result: JobResult) -> None:
        """Nothing depends on it."""

    def stop(self) -> Sequence[str]:
        """Empty the list and return the names of the jobs that were in it."""
        names = [job.name for job in self._waiting]
        self._waiting.clear()
        return names
