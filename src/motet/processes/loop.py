"""One worker's loop while jobs live in processes of their own: it starts them, listens, and does what worker 0 says.

It takes no part in the turns: these change hands among the jobs alone (`motet.processes.turn_table`). So it looks only
now and then, `LOOK_SECONDS` apart, and costs next to nothing.

A job's life: *waiting* for a seat; *started*, a process on each worker, which imports and joins its peers; *computing*,
*waiting* and *ready* in turns; *gone*, when its process has ended on this worker; *concluded*, when worker 0 has heard
of the last one and told what came of it: over, or *again* from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motet.config import OnSameFile
from motet.divergence import GRADIENTS
from motet.errors import UsageError, WorkerFailedError, WorkerLostError
from motet.events import (
    JobEnded,
    JobStarted,
    MetricsLogged,
    Observer,
    OrderChanged,
    ParametersSet,
    RunEnded,
    RunStarted,
)
from motet.gradients.nonfinite import Watch
from motet.jobs.parameters import parameters_of
from motet.pipeline.job_end import STARTS_AGAIN
from motet.pipeline.ledger import RunLedger
from motet.pipeline.observers import Observers
from motet.processes.decider import Decider
from motet.processes.exchange import Exchange
from motet.processes.files import SharedFiles
from motet.processes.local import LocalJob, LocalJobs, result_of
from motet.processes.messages import GO_ON, STOP, STOP_NOW, Start
from motet.processes.timeline import Timeline
from motet.processes.turn_table import Table
from motet.processes.unseen import Unseen
from motet.results import JobResult, Results
from motet.schedule.order import Order
from motet.tracebacks import short_form
from motet.workers.interruption import Interruption

LOOK_SECONDS = 0.02
COSTS_SECONDS = 1.0
WAITS_UNSEEN = (
    "waits where Motet does not see it, or computes for very long at a stretch: its turn was taken meanwhile, and "
    "others went on. Its results are the same."
)
NO_DDP = (
    "built no DistributedDataParallel and waited for no collective: there was nothing to synchronize, so nothing of it "
    "was hidden. If it trains with several workers, wrap its model in DistributedDataParallel."
)


@dataclass(frozen=True)
class ProcessJob:
    """A job as the run has it: data (``spec``), or a callable that the warm parent holds."""

    name: str
    call: Callable[[], object] | None
    spec: Mapping[str, Any] | None
    turns: int | None = None
    cwd: str | None = None
    env: Mapping[str, str] | None = None


def refuse_compressed(name: str, compress: str | None) -> None:
    """Raise `UsageError` for a job whose gradients are to travel as Motet sends them, not DDP."""
    if compress not in (None, "none"):
        raise UsageError(
            f"job {name!r}: compress: {compress} goes with --house together; in a process of its own, register torch's "
            "bf16_compress_hook in the script"
        )


class WorkerLoop:
    """This worker's loop. ``make_start(job, seat, attempt)``: what a process is told; worker 0 has a ``decider``."""

    def __init__(
        self,
        jobs: Sequence[ProcessJob],
        exchange: Exchange,
        local: LocalJobs,
        table: Table,
        wake: tuple[int, ...],
        decider: Decider | None,
        make_start: Callable[[ProcessJob, int, int], Start],
        observers: Sequence[Observer],
        tell: Callable[[str], None],
        interruption: Interruption,
        keep_result: Callable[[str, JobResult], None],
        timeout_seconds: float,
        on_same_file: OnSameFile,
        starting_again: Collection[str],
    ) -> None:
        self._jobs = {job.name: job for job in jobs}
        self._exchange = exchange
        self._local = local
        self._table = table
        self._wake = wake
        self._decider = decider
        self._make_start = make_start
        self._tell = tell
        self._interruption = interruption
        self._keep_result = keep_result
        self._starting_again = starting_again
        self._timeout_seconds = timeout_seconds
        self._observers = Observers(observers, tell, lambda: None)
        self._observe, self._notify = self._observers.observe, self._observers.notify
        self._ledger = RunLedger()
        self._timeline = Timeline(self._ledger, self._observe)
        self._on_same_file = on_same_file
        self._files = SharedFiles(on_same_file, self._notify, self._doom)
        self._finite = Watch(self._observe, self._notify)
        self._unseen = Unseen(table, wake, local.pid_of)
        self._expected: dict[str, int | None] = {job.name: job.turns for job in jobs}
        self._results: dict[str, object] = {}
        self._num_ddp: dict[str, int] = {}
        self._wish = GO_ON
        self._stop_at: float | None = None
        self._costs_at = 0.0
        self._over = False

    def run(self) -> Results:
        """Run all jobs to their end. Raises `GangError` if something goes wrong between the workers."""
        begin = time.perf_counter()
        self._observe(
            RunStarted(
                time=begin,
                unix_time=time.time(),
                worker=self._exchange.worker,
                num_workers=self._exchange.num_workers,
                jobs=tuple(self._jobs),
                order=tuple(self._jobs),
            )
        )
        with self._interruption.listening():
            if self._decider is not None:
                self._decider.begin()
            try:
                while not self._over:
                    self._look()
                    time.sleep(LOOK_SECONDS)
            except BaseException as error:
                if not isinstance(error, WorkerFailedError):
                    with contextlib.suppress(WorkerLostError):
                        text = f"worker {self._exchange.worker} has left the run: {type(error).__name__}: {error}"
                        self._exchange.tell_others("lost", text=text)
                raise
        wall_seconds = time.perf_counter() - begin
        self._observe(RunEnded(time=time.perf_counter(), wall_seconds=wall_seconds))
        return self._ledger.results(list(self._jobs), self._exchange.num_workers, wall_seconds, self._observers.notices)

    def _look(self) -> None:
        self._exchange.beat()
        for message in self._exchange.received():
            self._obey(message)
        for job, word in self._local.messages():
            self._heard(job, word)
        self._timeline.add(self._local.stretches(), self._offset)
        for job in self._local.ended():
            self._gone(job)
        self._local.kill_late()
        if (seat := self._unseen.look()) is not None:
            name = next((job.name for job in self._local.live.values() if job.start.seat == seat), None)
            if name is not None and self._table.turns(seat) > 0:
                self._notify(name, WAITS_UNSEEN)
        self._stop_if_asked()
        self._tell_costs()
        if (stalled := self._local.stalled(self._timeout_seconds)) is not None:
            stalled.moved_at = math.inf
            why = (
                f"it has neither computed nor synchronized for {self._timeout_seconds:.0f} s on worker "
                f"{self._exchange.worker} (--timeout), in turn {self._turns_of(stalled) + 1}"
            )
            self._exchange.tell_0("doomed", name=stalled.name, why=why, all=False)
        if self._decider is not None:
            self._decider.look()

    def _turns_of(self, job: LocalJob) -> int:
        return self._table.turns(job.start.seat) + job.offset

    def _offset(self, name: str) -> int:
        job = self._local.live.get(name)
        return 0 if job is None else job.offset

    # What worker 0 says

    def _obey(self, message: Mapping[str, Any]) -> None:
        what = message["what"]
        if what in ("gone", "costs", "doomed", "asked to stop"):
            assert self._decider is not None
            self._decider.heard(message)
        elif what == "start":
            self._start(self._jobs[message["name"]], message["seat"], message["attempt"])
        elif what == "order":
            self._follow(message["order"], message["reason"])
        elif what == "end":
            self._end(message["name"])
        elif what == "again":
            self._notify(message["name"], message["text"])
        elif what == "concluded":
            self._concluded(message)
        elif what == "never":
            self._ledger.ended(message["name"], "stopped", 0, None, None)
        elif what == "stop":
            self._begin_stop(message["wish"])
        elif what == "lost":
            raise WorkerFailedError(message["text"])
        elif what == "over":
            self._over = True

    def _start(self, job: ProcessJob, seat: int, attempt: int) -> None:
        self._local.start(self._make_start(job, seat, attempt))
        if self._wish:
            self._table.wish(seat, self._wish)
        if attempt == 0:
            if job.name in self._starting_again:
                self._notify(job.name, STARTS_AGAIN)
            self._observe(JobStarted(time=time.perf_counter(), job=job.name, turns=job.turns))
            if job.call is not None and (parameters := parameters_of(job.call)):
                self._observe(ParametersSet(time=time.perf_counter(), job=job.name, values=parameters))

    def _follow(self, names: Sequence[str], reason: str | None) -> None:
        seats = [self._local.live[name].start.seat for name in names if name in self._local.live]
        if seats:
            self._table.follow(seats, self._wake)
        if reason is not None:
            self._observe(OrderChanged(time=time.perf_counter(), order=Order(tuple(names)).turns, reason=reason))

    def _concluded(self, message: Mapping[str, Any]) -> None:
        name, status, error = message["name"], message["status"], message["error"]
        nonfinite = self._finite.ended(name)
        if status == "finished" and not self._num_ddp.get(name) and not message["turns"]:
            self._notify(name, NO_DDP)
        if error is not None:
            where = "" if message["alone"] else f" in turn {message['turns'] + 1} on all workers"
            self._tell(f"job '{name}' failed{where}, the others go on: {short_form(error)}")
        result = self._results.pop(name, None) if status == "finished" else None
        self._ledger.ended(name, status, message["turns"], result, error, None, nonfinite)
        self._keep_result(name, self._ledger.finished[name])
        self._observe(JobEnded(time=time.perf_counter(), job=name, status=status, turns=message["turns"], error=error))

    # What jobs tell

    def _heard(self, job: LocalJob, word: Mapping[str, Any]) -> None:
        now, what = time.perf_counter(), word["what"]
        if what == "log":
            self._observe(MetricsLogged(time=now, job=job.name, turn=word["turn"], values=word["values"]))
            self._finite.logged(job.name, word["turn"], word["values"])
        elif what == "expect":
            self._expected[job.name] = word["value"]
            self._observe(JobStarted(time=now, job=job.name, turns=word["value"]))
        elif what == "parameters":
            self._observe(ParametersSet(time=now, job=job.name, values=word["values"]))
        elif what == "notice":
            self._notify(job.name, word["text"])
        elif what == "file":
            self._files.heard(job.name, word)
        elif what == "diverged":
            self._finite.told(job.name, GRADIENTS, word["turn"], word["value"])

    def _doom(self, name: str, why: str) -> None:
        text = f"job '{name}' {why}; it was ended, as --on-same-file {self._on_same_file} asks"
        self._exchange.tell_0("doomed", name=name, why=text, all=self._on_same_file == "error")

    def _gone(self, job: LocalJob) -> None:
        """A job's process has ended on this worker: tell worker 0 how."""
        for each, word in self._local.messages():
            self._heard(each, word)
        self._timeline.add(self._local.stretches(), self._offset)
        turns = self._turns_of(job)
        self._local.close(job)
        self._timeline.ended(job.name)
        ended = job.ended
        try:
            self._results[job.name] = result_of(ended)
        except Exception as error:
            self._notify(
                job.name,
                f"returned something that cannot be loaded outside of its process ({type(error).__name__}: {error}), "
                "so its result is left out; return plain values or tensors.",
            )
        self._num_ddp[job.name] = 0 if ended is None else ended.num_ddp
        status = "" if ended is None else ended.status
        if status == "finished" and job.exit_status != 0:
            status = ""  # its loop had ended, and then its threads or exit hooks failed
        self._exchange.tell_0(
            "gone",
            name=job.name,
            attempt=job.start.attempt,
            status=status,
            turns=turns if ended is None else ended.turns,
            kind="" if ended is None else ended.kind,
            error=None if ended is None else ended.error,
            exit_status=job.exit_status,
            last_on_stderr=job.lines.last_on_stderr,
        )

    # Now and then

    def _stop_if_asked(self) -> None:
        wish = self._interruption.stop_request
        if wish > self._wish:
            self._exchange.tell_0("asked to stop", wish=wish)
            self._wish = wish
        if self._stop_at is None:
            return
        # Who has not come by at a turn's end by now is asked by a signal, and then ended by one.
        if time.monotonic() > self._stop_at:
            for name in list(self._local.live):
                self._end(name)

    def _begin_stop(self, wish: int) -> None:
        self._interruption.settled()
        self._wish = max(self._wish, wish)
        now = time.monotonic()
        self._stop_at = min(self._stop_at or math.inf, now + (2.0 if wish == STOP_NOW else 14.0))
        for job in self._local.live.values():
            self._table.wish(job.start.seat, STOP_NOW if wish == STOP_NOW else STOP)
            if self._decider is not None and self._table.turns(job.start.seat) == 0:
                # It starts up, and has no turns at whose ends it would hear of it: ended on all workers alike.
                self._exchange.tell_all("end", name=job.name)

    def _end(self, name: str) -> None:
        if (job := self._local.live.get(name)) is not None:
            self._table.wish(job.start.seat, STOP_NOW)
            self._local.end(name)

    def _tell_costs(self) -> None:
        now = time.monotonic()
        if now - self._costs_at < COSTS_SECONDS:
            return
        self._costs_at = now
        figures = {name: costs.figures() for name, costs in self._timeline.costs.items() if name in self._local.live}
        turns = {
            name: (self._table.turns(job.start.seat) + job.offset, self._expected.get(name))
            for name, job in self._local.live.items()
        }
        told = {name: each for name, each in figures.items() if each is not None}
        if told:
            self._exchange.tell_0("costs", figures=told, turns=turns)
