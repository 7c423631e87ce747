"""Worker 0's part of a run whose jobs live in processes of their own: it decides, and broadcasts what it decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from motet.processes.costs import Costing
from motet.processes.ends import End, Verdict, is_echo, judge
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
    RoomReport,
    Skip,
    StartJob,
    Stop,
    StopRequest,
    ToDecider,
)
from motet.processes.process_job import ProcessJob
from motet.processes.room import full_text, has_room
from motet.processes.search import Source
from motet.processes.switches import Switches
from motet.results import JobResult
from motet.schedule.costs import Cost
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

    job: ProcessJob
    seat: int
    attempt: int
    turns: int = 0
    expected: int | None = None
    ends: dict[int, End] = field(default_factory=dict)
    first_end_at: float = 0.0
    asked_to_end: bool = False
    failure: str | None = None

    @property
    def name(self) -> str:
        """The job's name."""
        return self.job.name


class Decider:
    """Decides which jobs run, in which order, and what came of them.

    ``source``: the jobs to run. ``charge(name, attempt, verdict)`` takes note that a job failed on one worker alone,
    and returns whether it may be tried again; ``show(name, text)`` shows why. ``by_memory``: a job joins where there
    is room for it in memory. ``switches``: says when orders begin that are followed to the letter. ``earlier_costs``:
    what turns cost when these jobs last ran.
    """

    def __init__(
        self,
        exchange: Exchange,
        source: Source,
        order: Order | None,
        at_once: int,
        by_memory: bool,
        charge: Callable[[str, int, Verdict], bool],
        show: Callable[[str, str], None],
        switches: Switches | None = None,
        earlier_costs: Mapping[str, Cost] | None = None,
    ) -> None:
        self._exchange = exchange
        self.source = source
        self._costing = Costing(order, source.names[:at_once], earlier_costs)
        self._free = list(range(at_once))[::-1]
        self._running: dict[str, _Running] = {}
        self._switches = switches
        self._followed: list[str] = []
        self._order_to_send: tuple[str | None] | None = None  # because of what
        self._by_memory = by_memory
        self._rooms: dict[int, RoomReport] = {}
        self._num_changes = 0
        self._reported_full = 0
        self._charge = charge
        self._show = show
        self._num_ends = 0
        self._begin = time.monotonic()
        self._ordering_seconds = 0.0
        self._num_concluding = 0  # broadcast as ended, and not yet received by this worker's own loop
        self._stop = 0
        self._over = False

    @property
    def known_costs(self) -> Mapping[str, Cost]:
        """What turns cost, also those of jobs that have ended."""
        return self._costing.known

    def begin(self) -> None:
        """Start the first jobs."""
        self._admit()
        self._broadcast_order()
        self._finish_if_over()

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
            case RoomReport():
                self._rooms[worker] = message
                self._admit()
            case StopRequest(stop):
                self._begin_stop(stop)
            case FailRequest(name, why, stops_run, attempt) if self._runs(name, attempt):
                self._running[name].failure = why
                self._end(name)
                if stops_run:
                    self._begin_stop(STOP_NOW)

    def _runs(self, name: str, attempt: int | None) -> bool:
        """Whether a job runs, and is the process that is meant: it may have been started again meanwhile."""
        job = self._running.get(name)
        return job is not None and attempt in (None, job.attempt)

    def _begin_stop(self, stop: int) -> None:
        if stop <= self._stop:
            return
        self._stop = stop
        self._exchange.broadcast(Stop(stop))
        for name in self.source.stop():
            self._exchange.broadcast(Skip(name))
        self._finish_if_over()

    def look(self) -> None:
        """Decide what time decides: whether a failed job's other processes are still to be waited for."""
        now = time.monotonic()
        if self._order_to_send is not None:
            self._broadcast_order(*self._order_to_send)
        for job in list(self._running.values()):
            if job.ends and not job.asked_to_end and not all(end.well for end in job.ends.values()):
                killed = any(end.exit_status < 0 or not end.status for end in job.ends.values())
                if killed or now - job.first_end_at > SAME_ERROR_SECONDS:
                    self._end(job.name)

    def _admit(self) -> None:
        joined = False
        while self._free and not self._stop and self._has_room() and (job := self.source.next_job()) is not None:
            self._start(job, 0)
            self._costing.joined(job.name, list(self._running))
            joined = True
        if joined:
            self._costing.begin(*self._progress())
            self._broadcast_order()

    def _progress(self) -> tuple[dict[str, int], dict[str, int | None]]:
        """Return how many turns each live job has taken, and will have taken at its end."""
        running = self._running.items()
        return {name: job.turns for name, job in running}, {name: job.expected for name, job in running}

    def _has_room(self) -> bool:
        if not self._by_memory or not self._running:
            return True
        rooms = [room for room in self._rooms.values() if room.num_changes == self._num_changes]
        if len(rooms) < self._exchange.num_workers:
            return False
        if has_room(rooms):
            return True
        if self._reported_full != len(self._running):
            self._reported_full = len(self._running)
            self._exchange.broadcast(Notify(None, full_text(len(self._running), rooms)))
        return False

    def _start(self, job: ProcessJob, attempt: int) -> None:
        self._num_changes += 1
        self._followed = []  # its seat is new, and in no order
        running = self._running[job.name] = _Running(job, self._free.pop(), attempt, expected=job.turns)
        self._exchange.broadcast(StartJob(job.name, running.seat, attempt, job.given))

    def _broadcast_order(self, reason: str | None = None) -> None:
        live = [name for name in self._costing.order.turns if name in self._running]
        live += [name for name in self._running if name not in live]
        if reason is None and live == [name for name in self._followed if name in self._running]:
            return  # seats that nobody has are passed over anyway
        if self._switches is not None and not self._switches.possible:
            self._order_to_send = (reason,)
            return
        self._order_to_send, self._followed = None, live
        after = 0 if self._switches is None else self._switches.after(len(live))
        self._exchange.broadcast(FollowOrder(live, reason, after))

    def _reorder(self) -> None:
        begin = time.monotonic()
        if self._ordering_seconds > MOST_ORDERING * (begin - self._begin):
            return
        change = self._costing.change(*self._progress(), self._exchange.num_workers)
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
        error = verdict.error
        if verdict.alone:
            where = f"on worker {verdict.worker} alone, in turn {verdict.turns + 1}:"
            error = f"{where}\n{error}" if "\n" in (error or "") else f"{where} {error}"  # a traceback begins a line
        if verdict.error is not None and (job.ends[0].error != verdict.error or is_echo(verdict.error)):
            self._show(job.name, error or "")  # this worker's process has not
        if verdict.alone and self._charge(job.name, job.attempt, verdict):
            why = short_form(verdict.error or "")
            text = f"failed on worker {verdict.worker} alone, in turn {verdict.turns + 1} ({why}); it starts again."
            self._exchange.broadcast(Notify(job.name, text))
            self._start(job.job, job.attempt + 1)
            self._broadcast_order()
            return
        self._num_concluding += 1
        self._num_changes += 1
        failed_on = verdict.worker if verdict.alone else None
        self._exchange.broadcast(Conclude(job.name, verdict.status, verdict.turns, error, failed_on))

    def concluded(self, name: str, result: JobResult) -> None:
        """Go on after a job that has ended; ``result``: what this worker has of it."""
        self._num_concluding -= 1
        self.source.job_ended(name, result)
        self._admit()
        if self._running:
            self._broadcast_order()
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if not self._running and not self._num_concluding and not self._over:
            self._over = True
            self._exchange.broadcast(Finish())
