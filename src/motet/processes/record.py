"""What this worker knows of its jobs: what they reported and computed, shown to observers and kept in the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from motet.config import OnSameFile
from motet.divergence import GRADIENTS
from motet.events import (
    JobEnded,
    JobSaved,
    JobStarted,
    MemoryMeasured,
    MetricsLogged,
    Observer,
    OrderChanged,
    ParametersSet,
    RunEnded,
    RunStarted,
)
from motet.gradients.nonfinite import FiniteCheck
from motet.jobs.parameters import parameters_of
from motet.pipeline.job_end import STARTS_AGAIN
from motet.pipeline.ledger import RunLedger
from motet.pipeline.observers import Observers
from motet.processes.job_messages import (
    DivergenceReport,
    EndReport,
    FileReport,
    FromJob,
    HoldingsReport,
    LengthReport,
    LogReport,
    NoticeReport,
    ParametersReport,
    SaveReport,
)
from motet.processes.local import result_of
from motet.processes.messages import ClashReport, Conclude, ProgressReport
from motet.processes.process_job import ProcessJob
from motet.processes.room import Room
from motet.processes.shared_files import SharedFiles
from motet.processes.timeline import Timeline
from motet.processes.turn_table import Stretch
from motet.results import JobResult, Results
from motet.schedule.order import Order
from motet.tracebacks import short_form

NO_DDP = (
    "built no DistributedDataParallel and waited for no collective: there was nothing to synchronize, so nothing of it "
    "was hidden. If it trains with several workers, wrap its model in DistributedDataParallel."
)


class Record:
    """What is known of ``jobs``. ``notify_user``: how Motet itself says something; ``keep`` keeps a job's result.

    ``starting_again``: the jobs that an earlier start of the run has begun. ``fail(job, why)`` ends a job, or the run,
    as ``on_same_file`` asks; ``pass_on`` reports a clash of files to worker 0 (None: this is worker 0).
    """

    def __init__(
        self,
        jobs: Sequence[ProcessJob],
        room: Room,
        observers: Sequence[Observer],
        notify_user: Callable[[str], None],
        keep: Callable[[str, JobResult], None],
        starting_again: Collection[str],
        on_same_file: OnSameFile,
        fail: Callable[[str, str], None],
        pass_on: Callable[[ClashReport], None] | None,
    ) -> None:
        self._jobs = {job.name: job for job in jobs}
        self.room = room
        self._notify_user = notify_user
        self._keep = keep
        self._starting_again = starting_again
        self._observers = Observers(observers, notify_user, lambda: None)
        self._observe, self.notify = self._observers.observe, self._observers.notify
        self._ledger = RunLedger()
        self._timeline = Timeline(self._ledger, self._observe)
        self._files = SharedFiles(on_same_file, self.notify, fail, pass_on)
        self._finite = FiniteCheck(self._observe, self.notify)
        self._expected: dict[str, int | None] = {job.name: job.turns for job in jobs}
        self._results: dict[str, object] = {}
        self._num_ddp: dict[str, int] = {}
        self._shared_bytes: dict[str, int] = {}
        self._begin = 0.0

    # The run

    def run_started(self, worker: int, num_workers: int) -> None:
        """Take note that the run starts."""
        self._begin = time.perf_counter()
        names = tuple(self._jobs)
        self._observe(
            RunStarted(
                time=self._begin,
                unix_time=time.time(),
                worker=worker,
                num_workers=num_workers,
                jobs=names,
                order=names,
            )
        )
        self._files.begin(self._jobs.values())

    def order_changed(self, names: Sequence[str], reason: str) -> None:
        """Take note that the jobs take turns in another order."""
        self._observe(OrderChanged(time=time.perf_counter(), order=Order(tuple(names)).turns, reason=reason))

    def run_ended(self, num_workers: int) -> Results:
        """Take note that the run has ended; return what came of it."""
        self._files.finish()
        end = time.perf_counter()
        wall_seconds = end - self._begin
        self._observe(RunEnded(time=end, wall_seconds=wall_seconds))
        return self._ledger.results(list(self._jobs), num_workers, wall_seconds, self._observers.notices)

    # A job's life

    def started(self, job: ProcessJob) -> None:
        """Take note that a job starts."""
        now = time.perf_counter()
        self._jobs[job.name] = job
        if job.name in self._starting_again:
            self.notify(job.name, STARTS_AGAIN)
        self._observe(JobStarted(time=now, job=job.name, turns=job.turns))
        if job.call is not None and (parameters := parameters_of(job.call)):
            self._observe(ParametersSet(time=now, job=job.name, values=parameters))

    def receive(self, job: str, report: FromJob) -> None:
        """Take note of what a job reports from its process."""
        now = time.perf_counter()
        match report:
            case LogReport(turn, values):
                self._observe(MetricsLogged(time=now, job=job, turn=turn, values=values))
                self._finite.logged(job, turn, values)
            case LengthReport(turns):
                self._expected[job] = turns
                self._observe(JobStarted(time=now, job=job, turns=turns))
            case ParametersReport(values):
                self._observe(ParametersSet(time=now, job=job, values=values))
            case NoticeReport(text):
                self.notify(job, text)
            case FileReport():
                self._files.receive(job, report)
            case SaveReport(turn):
                self._observe(JobSaved(time=now, job=job, turn=turn))
            case HoldingsReport():
                held = self.room.receive(job, report)
                self._observe(
                    MemoryMeasured(
                        time=now,
                        job=job,
                        parameters_bytes=held.parameters_bytes,
                        gradients_bytes=held.gradients_bytes,
                        optimizer_bytes=held.optimizer_bytes,
                        activations_bytes=held.activations_bytes,
                    )
                )
            case DivergenceReport(turn, value):
                self._finite.note(job, GRADIENTS, turn, value)

    def settle_files(self, until: float) -> None:
        """Act on what happened to files before ``until``: all of that has been reported."""
        self._files.settle(until)

    def receive_clash(self, report: ClashReport) -> None:
        """Take note of a file that two jobs have written on another worker."""
        self._files.passed_on(report)

    def computed(self, stretches: Iterable[tuple[str, Stretch]], offsets: Callable[[str], int]) -> None:
        """Take note of what jobs computed and synchronized. ``offsets(job)``: its turns of before a resume."""
        self._timeline.add(stretches, offsets)

    def costs(self, turns: Mapping[str, int]) -> ProgressReport | None:
        """Return what is known of the costs of the jobs in ``turns``, None if nothing."""
        known = {}
        for name, costs in self._timeline.costs.items():
            if name in turns and (figures := costs.figures()) is not None:
                known[name] = figures
        if not known:
            return None
        return ProgressReport(
            compute_seconds={name: compute for name, (compute, _, _) in known.items()},
            sync_seconds={name: sync for name, (_, sync, _) in known.items()},
            num_bytes={name: num_bytes for name, (_, _, num_bytes) in known.items()},
            turns=turns,
            expected={name: self._expected.get(name) for name in turns},
        )

    def exited(self, job: str, ended: EndReport | None, shared_bytes: int = 0) -> None:
        """Take note that a job's process has ended here, and of what its loop returned.

        ``shared_bytes``: how much of its weights it shared with others, at most.
        """
        self._shared_bytes[job] = shared_bytes
        self._timeline.ended(job)
        try:
            self._results[job] = result_of(ended)
        except Exception as error:
            self.notify(
                job,
                f"returned something that cannot be loaded outside of its process ({type(error).__name__}: {error}), "
                "so its result is left out; return plain values or tensors.",
            )
        self._num_ddp[job] = 0 if ended is None else ended.num_ddp

    def skipped(self, job: str) -> None:
        """Take note that a job is never started: the run stops."""
        self._ledger.ended(job, "stopped", 0, None, None)

    def concluded(self, end: Conclude) -> JobResult:
        """Take note that a job has ended on all workers; return what came of it."""
        name, status, error = end.name, end.status, end.error
        nonfinite = self._finite.ended(name)
        if status == "finished" and not self._num_ddp.get(name) and not end.turns:
            self.notify(name, NO_DDP)
        if error is not None:
            where = "" if end.failed_on is not None else f" in turn {end.turns + 1} on all workers"
            self._notify_user(f"job '{name}' failed{where}, the others go on: {short_form(error)}")
        result = self._results.pop(name, None) if status == "finished" else None
        self.room.concluded()
        shared = self._shared_bytes.pop(name, 0)
        held = self.room.of(name, shared)
        self._ledger.ended(name, status, end.turns, result, error, held, nonfinite, end.failed_on)
        kept = self._ledger.finished[name]
        self._keep(name, kept)
        now = time.perf_counter()
        self._observe(
            JobEnded(time=now, job=name, status=status, turns=end.turns, error=error, failed_on=end.failed_on)
        )
        return kept
