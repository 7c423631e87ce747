"""Run jobs in an order: the loop that every worker goes through alike.

A *slot* is one step of that loop: the next job in the order, its gradients' arrival, its turn. Every decision
(which job is next, when to agree, who is admitted) is made from data that is the same on all workers, and at the same
slot; no worker ever decides by its own clock.
"""

from __future__ import annotations

import copy
import time
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from motet.checkpoints.coordinator import Coordinator, RecoveryPolicy
from motet.config import RunConfig
from motet.coroutines import RunningJob, Turns
from motet.errors import GangError
from motet.events import JobEnded, JobStarted, Observer, OrderChanged, RunEnded, RunStarted
from motet.gradients import JobGradients
from motet.gradients.aggregation.choose import Aggregation
from motet.gradients.nonfinite import Watch, error_for
from motet.gradients.send_queue import SendQueue, short_switch_interval
from motet.gradients.transfer import InFlightBucket
from motet.intercept.buffers import BufferSync
from motet.intercept.ddp import JobSeams
from motet.intercept.patches import installed
from motet.jobs import Job, Script
from motet.jobs.outcome import JobStopped
from motet.jobs.parameters import parameters_of
from motet.jobs.source import JobSource
from motet.memory.admission import AdmissionControl
from motet.memory.offload import Transfers
from motet.pipeline.job_end import BYPASSES, NO_DDP, STARTS_AGAIN, agree_on_end, failed_text, leave_traces
from motet.pipeline.ledger import RunLedger
from motet.pipeline.observers import Observers
from motet.pipeline.recorder import Recorder
from motet.pipeline.requests import JobRequests
from motet.results import Results
from motet.same_files import SameFiles
from motet.schedule.order import Cursor
from motet.schedule.replanner import Change, Replanner
from motet.workers import Workers
from motet.workers.agreement import Agreements
from motet.workers.deadlock import WaitsFor
from motet.workers.interruption import Interruption
from motet.workers.messages import STOP, STOP_NOW

TIMES_TO_ASK = 3


class Pipeline:
    """One run on this worker.

    ``start_job(job)`` prepares a job's surroundings inside its greenlet, ``end_job(name)`` clears them away.
    """

    def __init__(
        self,
        source: JobSource,
        planning: Replanner,
        config: RunConfig,
        workers: Workers,
        observers: Sequence[Observer],
        job_dir: Callable[[str], Path | None],
        start_job: Callable[[Job], None],
        end_job: Callable[[str], None],
        notify_user: Callable[[str], None],
        aggregation: Aggregation | None = None,
        safety: RecoveryPolicy | None = None,
        transfers: Transfers | None = None,
    ) -> None:
        self._source = source
        self._planning = planning
        self._config = config
        self._aggregation = aggregation
        self._cursor = Cursor(planning.order)
        self._queue = SendQueue(planning.order)
        self._workers = workers
        self._watch = workers.watch
        self._agreements = Agreements(workers)
        self._job_dir = job_dir
        self._start_job = start_job
        self._end_job = end_job
        self._notify_user = notify_user
        self._safety = safety or RecoveryPolicy()
        self._interruption = Interruption(config.stop_after_seconds)
        workers.interrupted = self._interruption.hopeless
        workers.watch.check_signals = self._interruption.check_signals
        workers.watch.stops = lambda: self._interruption.signal_name is not None
        self._turns = Turns()
        self._observers = Observers(observers, notify_user, self._turns.settle)
        self._observe, self._notify = self._observers.observe, self._observers.notify
        self._ledger = RunLedger()
        self._recorder = Recorder(self._ledger, planning, self._observe, self._wait_device)
        self._last_synced = ("", 0)
        self._buffers = BufferSync(workers, blocking=config.buffers == "blocking")
        calls = (self._finish_sync, self._drain, self._notify, self._unblocked)
        self._seams = JobSeams(self._turns, self._buffers, *calls, workers, self._interruption)
        self._admission = AdmissionControl(
            workers, config, transfers, self._recorder.clock, self._seams, self._observe, self._notify
        )
        self._spec: Job | None = None  # the next job, for which there is no room yet
        self._live: dict[str, RunningJob] = {}
        self._finite = Watch(self._observe, self._notify)
        self._requests = JobRequests(self._turns, self._live, self._observe, self._notify, self._finite)
        self._gang_error: GangError | None = None
        self._to_raise: dict[str, BaseException] = {}
        self._files = SameFiles(workers, config.on_same_file, self._safety.run_dir, self._notify)
        self._saving = Coordinator(workers, self._safety.checkpoints, self._notify, self._lost, self._safety.disks)
        self._slot = 0
        self._begin = time.perf_counter()

    def run(self) -> Results:
        """Run all jobs to their end. Raises `GangError` if something goes wrong between the workers."""
        self._observe(
            RunStarted(
                time=self._begin,
                unix_time=time.time(),
                worker=self._workers.worker,
                num_workers=self._workers.num_workers,
                jobs=tuple(self._source.names),
                order=self._cursor.order.turns,
            )
        )
        with installed(self._seams), self._interruption.listening(), short_switch_interval(), self._files.watching():
            try:
                self._admit()
                while self._live:
                    self._take_slot()
                stops = self._saving.stopping
                self._saving.finish(self._interruption.seconds_left if stops else self._workers.timeout_seconds)
            except BaseException as error:
                self._watch.publish_exit(f"worker {self._workers.worker} has left the run: {error}")
                leave_traces(error, self._workers)
                raise
            finally:
                self._queue.close()
                self._turns.settle()
                self._seams.close()
                self._buffers.close()
        self._files.finish()
        wall_seconds = time.perf_counter() - self._begin
        self._observe(RunEnded(time=time.perf_counter(), wall_seconds=wall_seconds))
        return self._ledger.results(
            self._source.names, self._workers.num_workers, wall_seconds, self._observers.notices
        )

    def _take_slot(self) -> None:
        """One step: finish the next job's synchronization, let it compute, settle what all must know."""
        job = self._live[self._cursor.next(self._live)]
        self._slot += 1
        self._finish_sync(job)
        to_raise = self._to_raise.pop(job.name, None)
        self._take_turn(job, throw=to_raise)
        if isinstance(to_raise, JobStopped) and job.outcome is None:
            job.abandon(to_raise.outcome())  # the loop has swallowed it
        self._recorder.slot_over(self._slot)
        if self._admission.should_recheck(job):
            self._admit()
        if job.outcome is not None:
            self._turns.settle()
            self._conclude(job)
            self._admit()
            self._follow(self._planning.ended(job.name, self._num_synced()))
            self._receive_costs()  # what was told before it ended, and not of those that are asked for next
        at_once = self._planning.first_known(self._live)
        if at_once or (self._agreements.due(self._slot) and self._live):
            self._begin_agreement(at_once, job)
        if self._agreements.ripe(self._slot):
            self._agreements.settle()
        self._receive_costs()
        self._to_raise.update(self._files.to_stop(self._agreements, self._source.names))
        self._seams.receive_signals(self._agreements, self._source.names)
        self._saving.clock_seconds = self._agreements.clock_seconds
        self._saving.poll()
        if self._agreements.stop == STOP_NOW or self._planning.over(self._slot):
            self._begin_stop()
            self._stop_at_once(tuple(self._live))
        elif self._agreements.stop == STOP and not self._saving.stopping:
            self._begin_stop()
            self._stop_at_once([name for name in self._live if not self._saving.saves(name)])

    def _admit(self) -> None:
        """Start waiting jobs while there is room. Collective: each takes a lane."""
        # A search must not choose a trial that would then wait: what is learned meanwhile would not count.
        self._turns.settle()
        while self._admission.might_admit(self._live) and (spec := self._spec or self._source.next_job()) is not None:
            self._spec = spec
            if not self._admission.can_admit(self._live):
                return
            self._spec = None
            self._follow(self._planning.joined(spec.name, self._live))
            self._files.joined(spec)
            recorder = self._recorder
            gradients = JobGradients(
                spec.name, recorder.stopwatch, recorder.link, self._exposed, self._queue, recorder.clock
            )
            gradients.compress = spec.compress == "bf16"
            gradients.lane = self._workers.acquire_lane()
            gradients.device_lane = self._workers.device_lane
            if self._aggregation is not None:
                gradients.aggregate = self._aggregation.lane(gradients.lane)
            handle = self._requests.handle_of(spec.name, self._job_dir(spec.name))
            call = self._seams.whole(spec.name, spec.call)
            job = self._live[spec.name] = RunningJob(spec.name, call, gradients, handle)
            job.num_turns = spec.turns
            job.prepare = partial(self._start_job, spec)
            job.belongs_to_stop = self._interruption.explains
            self._saving.attach(job)
            self._admission.admitted(job)
            if spec.name in self._safety.starting_again:
                self._notify(spec.name, STARTS_AGAIN)
            self._turns.admit(job, script=spec.call if isinstance(spec.call, Script) else None)
            self._observe(JobStarted(time=time.perf_counter(), job=spec.name, turns=spec.turns))
            if parameters := parameters_of(spec.call):
                handle.set_parameters(**parameters)

    def _begin_agreement(self, at_once: bool, job: RunningJob) -> None:
        costs = self._planning.report_costs({name: job.num_turns for name, job in self._live.items()})
        stop, num_live = self._interruption.stop_request, len(self._live)
        after = f"job '{job.name}', turn {job.num_synced}"
        self._agreements.begin(
            self._slot,
            stop=stop,
            num_live=num_live,
            costs=costs,
            at_once=at_once,
            after=after,
            files=self._files.state_for_agreement(self._source.names),
            signals=self._seams.pending_signals(self._source.names),
        )

    def _receive_costs(self) -> None:
        if (reports := self._agreements.take_reports()) is not None:
            self._follow(self._planning.receive_costs(reports, self._num_synced()))

    def _num_synced(self) -> dict[str, int]:
        return {name: job.num_synced for name, job in self._live.items()}

    def _follow(self, change: Change | None) -> None:
        """From the next slot on follow a new order. Every worker must call this at the same slot with the same one."""
        if change is None:
            return
        self._cursor.change(change.order)
        self._queue.follow(change.order)
        self._agreements.note("/order", self._slot, zlib.crc32(str(change.order).encode()))
        self._observe(OrderChanged(time=time.perf_counter(), order=change.order.turns, reason=change.reason))

    def _finish_sync(self, job: RunningJob) -> None:
        """Block until the gradients of the job's last turn have arrived; nothing to do for a job that has none."""
        if not job.gradients.in_flight:
            return
        with job.gradients.on_stream():
            self._admission.before_sync_ends(job)
        if self._turns.current is not None:  # the job waits in the middle of its turn
            job.num_synced += 1
            self._watch.turn_ended(job.name, job.num_synced, job.gradients.signature)
        on_nan = self._config.on_nan
        models = self._seams.models_of(job.gradients.models_in_flight())
        with job.gradients.on_stream():
            wait_begin = self._recorder.wait_begins()
        figures = job.gradients.wait_synced(self._waiter(job.name, job.num_synced))
        self._last_synced = (job.name, job.num_synced)
        self._agreements.note(job.name, job.num_synced, job.gradients.signature)
        with job.gradients.on_stream():
            self._recorder.synced(self._slot, job.name, job.num_synced, wait_begin, figures)
        to_raise: BaseException | None = figures.error  # raised where plain DDP raises it, inside backward()
        self._finite.synced(job.name, job.num_synced, models)
        if on_nan != "ignore" and to_raise is None:
            to_raise = error_for(on_nan, job.name, job.num_synced, models)
        if to_raise is not None:
            if self._turns.current is not None:
                raise to_raise
            self._to_raise[job.name] = to_raise

    def _waiter(self, job: str, turn: int) -> Callable[[InFlightBucket], None]:
        item = WaitsFor("gradients", job, turn)

        def wait(bucket: InFlightBucket) -> None:
            try:
                self._workers.wait(item, bucket.done, bucket.wait)
            except GangError as error:
                self._lost(error)
                raise

        return wait

    def _lost(self, error: GangError) -> None:
        self._gang_error = error  # the wait may be inside a job's turn, whose loop may catch it

    def _wait_device(self, arrived: Callable[[], bool]) -> None:
        """Wait until the device has done what the host is too far ahead of, or what is to be told of."""
        try:
            self._workers.wait_arrived(WaitsFor("gradients", *self._last_synced), arrived)
        except GangError as error:
            self._lost(error)
            raise

    def _take_turn(self, job: RunningJob, throw: BaseException | None = None) -> None:
        turn = job.turn
        self._watch.at("computing", job.name, turn)
        with job.gradients.on_stream():
            self._admission.before_turn(job, self._next)
            start = self._recorder.turn_begins()
        self._files.turn_begins(job.name)
        self._turns.take(job, throw=throw)
        with job.gradients.on_stream():
            over = self._recorder.turn_ends(start)
        self._watch.at("between turns")
        if self._gang_error is not None:
            raise self._gang_error
        self._files.turn_ended(job.name)
        ended = job.outcome is not None
        synchronizing = job.gradients.in_flight and not ended
        if synchronizing:
            job.num_synced += 1
            self._watch.turn_ended(job.name, job.num_synced, job.gradients.signature)
        elif not ended:
            self._agreements.note(job.name, turn, -1)
        transfers, first = job.gradients.transfers if synchronizing else (), job.gradients.first_backward
        self._recorder.turn_ended(
            self._slot, job.name, turn, over, synchronizing=synchronizing, ended=ended, transfers=transfers, first=first
        )
        with job.gradients.on_stream():
            self._admission.after_turn(job, self._next, self._live)

    def _next(self) -> str | None:
        """Return the job whose turn comes next, as far as can be said now."""
        return copy.copy(self._cursor).next(self._live) if self._live else None

    def _conclude(self, job: RunningJob) -> None:
        """Agree with all workers that the job has ended, and give back what it held. Collective."""
        del self._live[job.name]
        told = (self._agreements, self._safety, self._interruption, self._notify)
        outcome = agree_on_end(job, self._source.names.index(job.name), self._workers, *told)
        self._drain(job)
        lane = job.gradients.lane
        job.gradients.close()
        if lane is not None:
            self._workers.release_lane(lane)
        self._buffers.detach(job)
        self._seams.end_groups(job)
        self._end_job(job.name)
        self._admission.ended(job.name)
        if outcome.status == "finished" and job.gradients.num_ddp == 0:
            self._notify(job.name, NO_DDP)
        if outcome.error is not None:
            self._notify_user(failed_text(job))
        self._recorder.flush()
        held, nonfinite = self._admission.of(job.name), self._finite.ended(job.name)
        self._ledger.ended(job.name, outcome.status, job.num_synced, outcome.result, outcome.error, held, nonfinite)
        result = self._ledger.finished[job.name]
        self._saving.job_ended(job.name, lambda: self._safety.keep_result(job.name, result))
        self._source.job_ended(job.name, result)
        self._observe(
            JobEnded(
                time=time.perf_counter(),
                job=job.name,
                status=outcome.status,
                turns=job.num_synced,
                error=outcome.error,
            )
        )

    def _begin_stop(self) -> None:
        """Begin no more jobs, and let those that save checkpoints end at their next save point."""
        self._saving.stopping = True
        self._interruption.settled()
        waiting = [] if self._spec is None else [self._spec.name]
        self._spec = None
        for name in (*waiting, *self._source.stop()):
            self._ledger.ended(name, "stopped", 0, None, None)

    def _stop_at_once(self, names: Sequence[str]) -> None:
        """End these jobs in good order, at the same slot on all workers."""
        while stopped := {name: job for name, job in self._live.items() if name in names}:
            job = stopped[self._cursor.next(stopped)]
            self._finish_sync(job)
            for _ in range(TIMES_TO_ASK):  # a bare `except:` in a loop may swallow it; then it is asked again
                self._take_turn(job, throw=JobStopped())
                if job.outcome is not None:
                    break
                self._finish_sync(job)
            self._conclude_stopped(job)

    def _conclude_stopped(self, job: RunningJob) -> None:
        self._turns.settle()
        if job.outcome is None:
            job.abandon()
        self._conclude(job)

    def _drain(self, job: RunningJob) -> None:
        """Wait for buckets that left in a turn that then failed; their memory may be freed afterwards."""
        if not job.gradients.in_flight:
            return
        job.gradients.drain(self._waiter(job.name, job.turn))

    def _exposed(self, bypassing: bool) -> None:
        """A synchronization is about to block inside backward(); the watch must know, as it cannot be sliced."""
        job = self._turns.current
        self._watch.blocking = job is not None
        if bypassing and job is not None:
            self._notify(job.name, BYPASSES)

    def _unblocked(self) -> None:
        self._watch.blocking = False
