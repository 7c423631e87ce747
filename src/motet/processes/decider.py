"""Worker 0's part of a run whose jobs live in processes of their own: it decides, and broadcasts what it decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from motet.processes.costs import Costing
from motet.processes.ends import End, Verdict, judge
from motet.processes.exchange import Exchange
from motet.processes.messages import (
    Conclude,
    EndJob,
    ExitReport,
    FailRequest,
    Finish,
    FollowOrder,
    Notify,
    ProgressReport,
    Skip,
    StartJob,
    Stop,
    StopRequest,
    ToDecider,
)
from motet.schedule.order import Order
from motet.tracebacks import short_form
from motet.workers.messages import STOP_NOW

SAME_ERROR_SECONDS = 2.0
"""So long after a process has failed may the job's others still meet the same error, before they are ended."""

MOST_ORDERING = 0.01
"""Such a part of the time goes to replaying orders, at most: jobs compute on the same processors."""


@dataclass
class _Running:
    """A job that runs: its seat, the number of its processes so far, how they ended, and when the first one did."""

    name: str
    seat: int
    attempt: int
    turns: int = 0
    expected: int | None = None
    ends: dict[int, End] = field(default_factory=dict)
    first_end_at: float = 0.0
    asked_to_end: bool = False
    failure: str | None = None


class Decider:
    """Decides which jobs run, in which order, and what came of them.

    ``names``: the jobs to run. ``tries(name)``: how many more times a job may be tried after it failed on one worker
    alone; ``charge(name, verdict)`` takes note of that.
    """

    def __init__(
        self,
        exchange: Exchange,
        names: Sequence[str],
        order: Order | None,
        at_once: int,
        tries: Callable[[str], int],
        charge: Callable[[str, Verdict], None],
        expected: Mapping[str, int | None],
    ) -> None:
        self._exchange = exchange
        self._waiting = list(names)
        self._costing = Costing(order, names[:at_once])
        self._free = list(range(at_once))[::-1]
        self._running: dict[str, _Running] = {}
        self._tries = tries
        self._charge = charge
        self._expected = dict(expected)
        self._num_ends = 0
        self._begin = time.monotonic()
        self._ordering_seconds = 0.0
        self._stop = 0
        self._over = False

    def begin(self) -> None:
        """Start the first jobs."""
        self._admit()
        self._broadcast_order()

    def receive(self, worker: int, message: ToDecider) -> None:
        """Act on what a worker reports."""
        match message:
            case ExitReport():
                self._exited(worker, message)
            case ProgressReport():
                self._costing.receive(worker, message)
                if worker == 0:
                    for name, job in self._running.items():
                        job.turns = message.turns.get(name, job.turns)
                        job.expected = message.expected.get(name, job.expected)
                self._reorder()
            case StopRequest(stop):
                self._begin_stop(stop)
            case FailRequest(name, why, stops_run) if name in self._running:
                self._running[name].failure = why
                self._end(name)
                if stops_run:
                    self._begin_stop(STOP_NOW)

    def _begin_stop(self, stop: int) -> None:
        if stop <= self._stop:
            return
        self._stop = stop
        self._exchange.broadcast(Stop(stop))
        for name in self._waiting:
            self._exchange.broadcast(Skip(name))
        self._waiting.clear()
        self._finish_if_over()

    def look(self) -> None:
        """Decide what time decides: whether a failed job's other processes are still to be waited for."""
        now = time.monotonic()
        for job in list(self._running.values()):
            if job.ends and not job.asked_to_end and not all(end.well for end in job.ends.values()):
                killed = any(end.exit_status < 0 or not end.status for end in job.ends.values())
                if killed or now - job.first_end_at > SAME_ERROR_SECONDS:
                    self._end(job.name)

    def _admit(self) -> None:
        while self._free and self._waiting and not self._stop:
            name = self._waiting.pop(0)
            self._start(name, 0)
            if self._costing.joined(name, list(self._running)) is not None:
                self._broadcast_order()

    def _start(self, name: str, attempt: int) -> None:
        job = self._running[name] = _Running(name, self._free.pop(), attempt, expected=self._expected.get(name))
        self._exchange.broadcast(StartJob(name, job.seat, attempt))

    def _broadcast_order(self, reason: str | None = None) -> None:
        live = [name for name in self._costing.order.turns if name in self._running]
        live += [name for name in self._running if name not in live]
        self._exchange.broadcast(FollowOrder(live, reason))

    def _reorder(self) -> None:
        begin = time.monotonic()
        if self._ordering_seconds > MOST_ORDERING * (begin - self._begin):
            return
        turns = {name: job.turns for name, job in self._running.items()}
        expected = {name: job.expected for name, job in self._running.items()}
        change = self._costing.change(turns, expected, self._exchange.num_workers)
        self._ordering_seconds += time.monotonic() - begin
        if change is not None:
            self._broadcast_order(change.reason)

    def _end(self, name: str) -> None:
        job = self._running.get(name)
        if job is not None and not job.asked_to_end:
            job.asked_to_end = True
            self._exchange.broadcast(EndJob(name))

    def _exited(self, worker: int, report: ExitReport) -> None:
        job = self._running.get(report.name)
        if job is None or job.attempt != report.attempt:
            return
        self._num_ends += 1
        asked = job.asked_to_end and report.exit_status < 0
        job.ends[worker] = End(
            worker=worker,
            number=self._num_ends,
            status=report.status,
            turns=report.turns,
            kind=report.kind,
            error=report.error,
            exit_status=report.exit_status,
            asked=asked,
            last_on_stderr=report.last_on_stderr,
        )
        job.first_end_at = job.first_end_at or time.monotonic()
        if len(job.ends) == self._exchange.num_workers:
            self._conclude(job)

    def _conclude(self, job: _Running) -> None:
        del self._running[job.name]
        self._free.append(job.seat)
        self._costing.ended(job.name)
        verdict = judge(job.ends, stopping=bool(self._stop))
        if job.failure is not None and verdict.status != "finished":
            verdict = Verdict("failed", verdict.turns, job.failure)
        if verdict.alone:
            self._charge(job.name, verdict)
            if job.attempt < self._tries(job.name):
                why = short_form(verdict.error or "")
                text = f"failed on worker {verdict.worker} alone, in turn {verdict.turns + 1} ({why}); it starts again."
                self._exchange.broadcast(Notify(job.name, text))
                self._start(job.name, job.attempt + 1)
                self._broadcast_order()
                return
        error = verdict.error
        if verdict.alone:
            error = f"on worker {verdict.worker} alone, in turn {verdict.turns + 1}: {error}"
        self._exchange.broadcast(Conclude(job.name, verdict.status, verdict.turns, error, verdict.alone))
        self._admit()
        if self._running:
            self._broadcast_order()
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if not self._running and not self._waiting and not self._over:
            self._over = True
            self._exchange.broadcast(Finish())
