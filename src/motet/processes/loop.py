"""One worker's loop while jobs live in processes of their own: it starts them, and does what worker 0 decides.

It takes no part in the turns: these change hands among the jobs alone (`motet.processes.turn_table`). So it looks only
now and then, `LOOK_SECONDS` apart, and costs next to nothing.

A job's life: *waiting* for a seat; *started*, a process on each worker, which imports and joins its peers; *computing*,
*waiting* and *ready* in turns; *exited*, when its process has ended on this worker; *concluded*, when worker 0 has the
report of the last one and has broadcast what came of it: over, or *started* again from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence

from motet.errors import WorkerFailedError, WorkerLostError
from motet.processes.decider import Decider
from motet.processes.exchange import Exchange
from motet.processes.job_messages import FrozenReport, Question, Start
from motet.processes.local import LocalJob, LocalJobs
from motet.processes.messages import (
    Abandon,
    ClashReport,
    Command,
    Conclude,
    EndJob,
    ExitReport,
    FailRequest,
    Finish,
    FollowOrder,
    Message,
    Notify,
    Skip,
    StartJob,
    Stop,
    StopRequest,
    ToDecider,
)
from motet.processes.process_job import ProcessJob
from motet.processes.record import Record
from motet.processes.room import TAKES_NO_TURNS
from motet.processes.search import answer_to
from motet.processes.shared_weights import SharedWeights
from motet.processes.unseen import Losses, Unseen
from motet.results import Results
from motet.timing.clocks import Waited
from motet.workers.interruption import Interruption
from motet.workers.messages import GO_ON, STOP, STOP_NOW

LOOK_SECONDS = 0.02
STRETCHES_SECONDS = 0.1
COSTS_SECONDS = 1.0
WAITS_UNSEEN = (
    "often waits where Motet does not see it (for a lock, a file, a library's thread): others go on some 20 ms later "
    "than they could. Its results are the same. What is waited for by a DataLoader, a queue, a future, a subprocess or "
    "a collective of torch.distributed is seen at once."
)


class WorkerLoop:
    """This worker's loop. ``make_start(job, seat, attempt)``: what a process is sent; worker 0 has a ``decider``."""

    def __init__(
        self,
        jobs: Sequence[ProcessJob],
        exchange: Exchange,
        local: LocalJobs,
        decider: Decider | None,
        make_start: Callable[[ProcessJob, int, int], Start],
        record: Record,
        interruption: Interruption,
        timeout_seconds: float,
    ) -> None:
        self._jobs = {job.name: job for job in jobs}
        self._exchange = exchange
        self._local = local
        self._decider = decider
        self._make_start = make_start
        self._record = record
        self._interruption = interruption
        self._timeout_seconds = timeout_seconds
        self._losses = Losses()
        self._unseen = Unseen(local.table, local.wake, local.pid_of)
        self._weights = SharedWeights(record.notify, lambda name: local.live[name].channel)
        self._stop = GO_ON
        self._stops = Waited()
        self._end_within_seconds = math.inf  # of that
        self._stretches_at = 0.0
        self._costs_at = 0.0
        self._over = False

    def run(self) -> Results:
        """Run all jobs to their end. Raises `GangError` if something goes wrong between the workers."""
        worker, num_workers = self._exchange.worker, self._exchange.num_workers
        self._record.run_started(worker, num_workers)
        with self._interruption.listening():
            if self._decider is not None:
                self._decider.begin()
            try:
                while not self._over:
                    self._look()
                    self._local.wait_until_asked(LOOK_SECONDS)
            except BaseException as error:
                if not isinstance(error, WorkerFailedError):
                    with contextlib.suppress(WorkerLostError):
                        text = f"worker {worker} has left the run: {type(error).__name__}: {error}"
                        self._exchange.send_to_others(Abandon(text))
                raise
            finally:
                self._weights.close()
        return self._record.run_ended(num_workers)

    def _look(self) -> None:
        self._exchange.beat()
        for worker, message in self._exchange.received():
            self._receive(worker, message)
        self._take_reports()
        for job in self._local.exited():
            self._exited(job)
        self._local.kill_late()
        if (seat := self._unseen.look()) is not None:
            name = next((job.name for job in self._local.live.values() if job.start.seat == seat), None)
            if name is not None and self._losses.lost(name, self._local.table.turns(seat)):
                self._record.notify(name, WAITS_UNSEEN)
        self._stop_if_asked()
        self._report_costs()
        self._report_room()
        self._fail_stalled()
        self._weights.look()
        if self._decider is not None:
            self._decider.look()

    def _take_reports(self, *, last: bool = False) -> None:
        asked_at = time.monotonic_ns()
        for job, report in self._local.reports():
            if isinstance(report, Question):
                assert self._decider is not None
                job.channel.send(answer_to(self._decider.source, job.name, report))
            elif isinstance(report, FrozenReport):
                self._weights.receive(job.name, report)
            else:
                self._record.receive(job.name, report)
        self._record.settle_files(asked_at)
        now = time.monotonic()
        if last or now - self._stretches_at >= STRETCHES_SECONDS or self._local.stretches_fill_up:
            self._stretches_at = now
            self._record.computed(self._local.stretches(), self._local.offset)

    # What worker 0 asks for

    def _receive(self, worker: int, message: Message) -> None:
        if isinstance(message, ClashReport):
            self._record.receive_clash(message)
        elif isinstance(message, ToDecider):
            assert self._decider is not None
            self._decider.receive(worker, message)
        else:
            assert isinstance(message, Command), message
            self._carry_out(message)

    def _carry_out(self, command: Command) -> None:
        match command:
            case StartJob(name, seat, attempt, given):
                self._record.room.started(name)
                job = self._jobs.setdefault(name, ProcessJob(name, None, None, given=given))
                self._start(job, seat, attempt)
            case FollowOrder(names, reason, after):
                self._local.follow(names, after)
                if reason is not None:
                    self._record.order_changed(names, reason)
            case EndJob(name):
                self._local.end(name)
            case Notify(name, text):
                self._record.notify(name, text)
            case Conclude():
                result = self._record.concluded(command)
                if self._decider is not None:
                    self._decider.concluded(command.name, result)
            case Skip(name):
                self._record.skipped(name)
            case Stop(stop):
                self._begin_stop(stop)
            case Abandon(text):
                raise WorkerFailedError(text)
            case Finish():
                self._over = True

    def _start(self, job: ProcessJob, seat: int, attempt: int) -> None:
        self._local.start(self._make_start(job, seat, attempt))
        if self._stop:
            self._local.table.request_stop(seat, self._stop)
        if attempt == 0:
            self._record.started(job)

    def _exited(self, job: LocalJob) -> None:
        """A job's process has ended on this worker: report to worker 0 how."""
        self._take_reports(last=True)
        turns, ended = self._local.turns(job), job.ended
        self._local.close(job)
        self._record.exited(job.name, ended, self._weights.ended(job.name))
        status = "" if ended is None else ended.status
        if status == "finished" and job.exit_status != 0:
            status = ""  # its loop had ended, and then its threads or exit hooks failed
        self._exchange.report(
            ExitReport(
                name=job.name,
                attempt=job.start.attempt,
                status=status,
                turns=turns if ended is None else ended.turns,
                kind="" if ended is None else ended.kind,
                error=None if ended is None else ended.error,
                exit_status=job.exit_status,
                last_on_stderr=job.lines.last_on_stderr,
            )
        )

    # Now and then

    def _stop_if_asked(self) -> None:
        stop = self._interruption.stop_request
        if stop > self._stop:
            self._exchange.report(StopRequest(stop))
            self._stop = stop
        if self._stops.seconds > self._end_within_seconds:
            for name in list(self._local.live):  # no turn's end has come at which it would have seen the request
                self._local.end(name)

    def _begin_stop(self, stop: int) -> None:
        self._interruption.settled()
        self._stop = max(self._stop, stop)
        within = self._stops.seconds + (2.0 if stop == STOP_NOW else 14.0)
        self._end_within_seconds = min(self._end_within_seconds, within)
        for job in self._local.live.values():
            self._local.table.request_stop(job.start.seat, STOP_NOW if stop == STOP_NOW else STOP)
            if self._decider is not None and self._local.table.turns(job.start.seat) == 0:
                # It starts up, and has no turns at whose ends it would see the request: ended on all workers alike.
                self._exchange.broadcast(EndJob(job.name))

    def _report_costs(self) -> None:
        now = time.monotonic()
        if now - self._costs_at < COSTS_SECONDS:
            return
        self._costs_at = now
        turns = {name: self._local.turns(job) for name, job in self._local.live.items()}
        if (report := self._record.costs(turns)) is not None:
            self._exchange.report(report)

    def _report_room(self) -> None:
        room, live = self._record.room, {name: job.pid for name, job in self._local.live.items()}
        if room.settle_without_turns(live):
            self._record.notify(None, TAKES_NO_TURNS)
        if (report := room.report(live)) is not None:
            self._exchange.report(report)

    def _fail_stalled(self) -> None:
        if (job := self._local.stalled(self._timeout_seconds)) is None:
            return
        why = (
            f"it has neither computed nor synchronized for {self._timeout_seconds:.0f} s on worker "
            f"{self._exchange.worker} (--timeout), in turn {self._local.turns(job) + 1}"
        )
        self._exchange.report(FailRequest(job.name, why, attempt=job.start.attempt))
