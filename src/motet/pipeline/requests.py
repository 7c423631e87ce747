"""What a job may ask of its run while it has its turn: the other side of `motet.handle`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from motet.coroutines import RunningJob, Turns
from motet.events import Event, JobSaved, JobStarted, MetricsLogged, ParametersSet
from motet.gradients.nonfinite import FiniteCheck
from motet.handle import JobHandle


class JobRequests:
    """Gives jobs their handles, and answers what is asked through these. ``live``: the jobs that run at the time.

    What is said through the handle of a job that has ended harms nobody; ``notice`` notifies the user that it is left
    out.
    """

    def __init__(
        self,
        turns: Turns,
        live: Mapping[str, RunningJob],
        observe: Callable[[Event], None],
        notice: Callable[[str, str], None],
        finite: FiniteCheck,
    ) -> None:
        self._turns = turns
        self._live = live
        self._observe = observe
        self._notice = notice
        self._finite = finite

    def handle_of(self, name: str, job_dir: Path | None) -> JobHandle:
        """Return the handle for the loop of the job ``name``."""
        return JobHandle(
            name,
            job_dir,
            partial(self._log, name),
            partial(self._expect, name),
            partial(self._describe, name),
            partial(self._yield_turn, name),
        )

    def _log(self, name: str, values: dict[str, float]) -> None:
        if (job := self._running(name)) is not None:
            self._observe(MetricsLogged(time=time.perf_counter(), job=name, turn=job.turn, values=values))
            self._finite.logged(name, job.turn, values)

    def _expect(self, name: str, turns: int) -> None:
        if (job := self._running(name)) is not None:
            job.expect(turns)
            self._observe(JobStarted(time=time.perf_counter(), job=name, turns=turns))

    def _describe(self, name: str, values: Mapping[str, object]) -> None:
        if self._running(name) is not None:
            self._observe(ParametersSet(time=time.perf_counter(), job=name, values=values))

    def saved(self, name: str, turn: int) -> None:
        """Report that a checkpoint of the job is complete; the job may have ended meanwhile."""
        self._observe(JobSaved(time=time.perf_counter(), job=name, turn=turn))

    def _running(self, name: str) -> RunningJob | None:
        job = self._live.get(name)
        if job is None:
            self._notice(name, "was logged to after it had ended: that is left out.")
        return job

    def _yield_turn(self, name: str) -> bool:
        job = self._turns.running_here()
        if job is None or job.name != name or job.gradients.depth or job.gradients.in_flight:
            return False
        if not self._turns.may_end():
            return False
        self._turns.end()
        return True
