"""Run jobs in an order: the loop that every worker goes through alike.

A *slot* is one step of that loop: the next job in the order, its gradients' arrival, its turn. Every decision
(which job is next, when to agree, who is admitted) is made from data that is the same on all workers, and at the same
slot; no worker ever decides by its own clock. `motet.pipeline.job_table` says what becomes of a job, step by step.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from functools import partial

from motet.checkpoints.coordinator import Coordinator
from motet.checkpoints.policy import RecoveryPolicy
from motet.config import RunConfig
from motet.coroutines import RunningJob, Turns
from motet.events import JobEnded, JobStarted, Observer, OrderChanged, RunEnded, RunStarted
from motet.frozen.together import HeldOnce
from motet.gradients import JobGradients
from motet.gradients.aggregation.choose import Aggregation
from motet.gradients.nonfinite import FiniteCheck, error_for
from motet.gradients.send_queue import SendQueue, short_switch_interval
from motet.intercept.buffers import BufferSync
from motet.intercept.ddp import JobSeams
from motet.jobs import Job, Script
from motet.jobs.outcome import JobStopped
from motet.jobs.parameters import parameters_of
from motet.jobs.source import JobSource
from motet.memory.admission import AdmissionControl
from motet.memory.offload import Transfers
from motet.patches import DURING_A_RUN
from motet.patching import in_place
from motet.pipeline.hooks import JobHooks
from motet.pipeline.job_end import NO_DDP, STARTS_AGAIN, agree_on_end, failed_text, leave_traces
from motet.pipeline.job_table import JobTable
from motet.pipeline.ledger import RunLedger
from motet.pipeline.observers import Observers
from motet.pipeline.recorder import Recorder
from motet.pipeline.requests import JobRequests
from motet.pipeline.waits import PipelineWaits
from motet.results import Results
from motet.same_files import SameFiles
from motet.schedule.replanner import Change, Replanner
from motet.workers import Workers
from motet.workers.agreement import Agreements
from motet.workers.interruption import Interruption
from motet.workers.messages import STOP, STOP_NOW
from motet.workers.worlds import VALUES

TIMES_TO_ASK = 3


class Pipeline:
    """One run on this worker."""

    def __init__(
        self,
        source: JobSource,
        planning: Replanner,
        config: RunConfig,
        workers: Workers,
        hooks: JobHooks,
        observers: Sequence[Observer],
        aggregation: Aggregation | None = None,
        recovery: RecoveryPolicy | None = None,
        transfers: Transfers | None = None,
    ) -> None:
        self._source = source
        self._planning = planning
        self._config = config
        self._aggregation = aggregation
        self._jobs = JobTable(source, planning.order)
        self._live = self._jobs.live
        self._queue = SendQueue(planning.order)
        self._workers = workers
        self._watch = workers.watch
        self._agreements = Agreements(workers)
        self._hooks = hooks
        self._recovery = recovery or RecoveryPolicy()
        self._interruption = Interruption(config.stop_after_seconds)
        interruption = self._interruption
        workers.heed(interruption.hopeless, interruption.check_signals, interruption.look)
        self._turns = Turns()
        self._observers = Observers(observers, hooks.notify_user, self._turns.settle)
        self._observe, self._notify = self._observers.observe, self._observers.notify
        self._ledger = RunLedger()
        self._waits = waits = PipelineWaits(workers, self._turns, self._notify)
        self._recorder = Recorder(self._ledger, planning, self._observe, waits.for_device)
        self._buffers = BufferSync(workers, blocking=config.buffers == "blocking")
        calls = (self._finish_sync, waits.drain, self._notify, waits.unblocked)
        self._seams = JobSeams(self._turns, self._buffers, *calls, workers, self._interruption)
        self._admission = AdmissionControl(
            workers, config, transfers, self._recorder.clock, self._seams, self._observe, self._notify
        )
        self._frozen = HeldOnce(self._notify, on=config.share_frozen == "on")
        self._finite = FiniteCheck(self._observe, self._notify)
        self._requests = JobRequests(self._turns, self._live, self._observe, self._notify, self._finite)
        self._files = SameFiles(workers, config.on_same_file, self._recovery.run_dir, self._notify)
        saved = self._requests.saved
        self._saving = Coordinator(workers, self._recovery, self._notify, waits.lost, saved=saved)
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
                order=self._jobs.order.turns,
            )
        )
        with (
            in_place(DURING_A_RUN, self._seams, VALUES),
            self._interruption.listening(),
            short_switch_interval(),
            self._files.watching(),
        ):
            try:
                self._admit()
                while self._live:
                    self._take_slot()
                stops = self._saving.stopping
                self._saving.finish(self._interruption.seconds_left if stops else self._workers.timeout_seconds)
            except BaseException as error:
                self._workers.board.publish_exit(f"worker {self._workers.worker} has left the run: {error}")
                leave_traces(error, self._workers)
                raise
            finally:
                self._queue.close()
                self._frozen.close()
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
        """One step, in phases. All but computing is the same on all workers."""
        job = self._jobs.next()
        self._slot += 1
        self._finish_sync(job)
        self._compute(job)
        self._recorder.slot_over(self._slot)
        if self._admission.should_recheck(job):
            self._admit()
        if job.outcome is not None:
            self._conclude_and_replace(job)
        self._agree(job)
        self._saving.tick(self._agreements.clock_seconds)
        self._saving.poll()
        self._stop_if_asked()

    def _compute(self, job: RunningJob) -> None:
        """Let the job take its turn; raise inside of it what has come up since its last one."""
        to_raise = self._jobs.take_error(job.name)
        self._take_turn(job, throw=to_raise)
        if isinstance(to_raise, JobStopped) and job.outcome is None:
            job.abandon(to_raise.outcome())  # the loop has swallowed it

    def _conclude_and_replace(self, job: RunningJob) -> None:
        """Conclude a job that has ended, and begin those for which there is room now."""
        self._turns.settle()
        self._conclude(job)
        self._admit()
        self._follow(self._planning.ended(job.name, self._jobs.num_synced()))
        self._receive_costs()  # what was reported before it ended, and not of those that are asked for next

    def _agree(self, job: RunningJob) -> None:
        """Begin an agreement of all workers if one is due after this turn, and do as the one under way says."""
        at_once = self._planning.first_known(self._live)
        if at_once or (self._agreements.due(self._slot) and self._live):
            self._begin_agreement(at_once, job)
        if self._agreements.ripe(self._slot):
            self._agreements.settle()
        self._receive_costs()
        for name, error in self._files.to_stop(self._agreements, self._source.names).items():
            self._jobs.raise_in(name, error)
        self._seams.receive_signals(self._agreements, self._source.names)

    def _stop_if_asked(self) -> None:
        """Stop the run, if all workers have agreed to: at once, or each job that saves at its next save point."""
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
        while self._admission.might_admit(self._live) and (spec := self._jobs.candidate()) is not None:
            if not self._admission.can_admit(self._live):
                return
            self._start(spec)

    def _start(self, spec: Job) -> None:
        """Make a job ready to take its first turn."""
        self._follow(self._planning.joined(spec.name, self._live))
        self._files.joined(spec)
        handle = self._requests.handle_of(spec.name, self._hooks.job_dir(spec.name))
        job = RunningJob(
            spec.name,
            self._seams.whole(spec.name, spec.call),
            self._gradients_of(spec),
            handle,
            num_turns=spec.turns,
            prepare=partial(self._hooks.start_job, spec),
            belongs_to_stop=self._interruption.explains,
        )
        self._jobs.admit(job)
        self._saving.attach(job)
        self._admission.admitted(job)
        if spec.name in self._recovery.starting_again:
            self._notify(spec.name, STARTS_AGAIN)
        self._turns.admit(job, script=spec.call if isinstance(spec.call, Script) else None)
        self._observe(JobStarted(time=time.perf_counter(), job=spec.name, turns=spec.turns))
        if parameters := parameters_of(spec.call):
            handle.set_parameters(**parameters)

    def _gradients_of(self, spec: Job) -> JobGradients:
        recorder, lane = self._recorder, self._workers.acquire_lane(meshed=self._aggregation is not None)
        return JobGradients(
            spec.name,
            recorder.stopwatch,
            recorder.link,
            self._waits.exposed,
            self._queue,
            recorder.clock,
            lane,
            device_lane=self._workers.device_lane,
            aggregate=None if self._aggregation is None else self._aggregation.lane(lane),
            compress=spec.compress == "bf16",
        )

    def _begin_agreement(self, at_once: bool, job: RunningJob) -> None:
        costs = self._planning.report_costs(self._jobs.expected())
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
            self._follow(self._planning.receive_costs(reports, self._jobs.num_synced()))

    def _follow(self, change: Change | None) -> None:
        """From the next slot on follow a new order. Every worker must call this at the same slot with the same one."""
        if change is None:
            return
        self._jobs.follow(change.order)
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
            job.synchronized()
            self._watch.turn_ended(job.name, job.num_synced, job.gradients.signature)
        on_nan = self._config.on_nan
        models = self._seams.models_of(job.gradients.models_in_flight())
        with job.gradients.on_stream():
            wait_begin = self._recorder.wait_begins()
        figures = job.gradients.wait_synced(self._waits.for_gradients(job.name, job.num_synced))
        self._waits.synced(job.name, job.num_synced)
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
            self._jobs.raise_in(job.name, to_raise)

    def _take_turn(self, job: RunningJob, throw: BaseException | None = None) -> None:
        turn = job.turn
        self._watch.at("computing", job.name, turn)
        with job.gradients.on_stream():
            self._admission.before_turn(job, self._jobs.following)
            self._frozen.turn_begins(job.name)
            start = self._recorder.turn_begins()
        self._files.turn_begins(job.name)
        self._turns.take(job, throw=throw)
        with job.gradients.on_stream():
            over = self._recorder.turn_ends(start)
        self._watch.at("between turns")
        self._waits.raise_if_lost()
        self._files.turn_ended(job.name)
        ended = job.outcome is not None
        synchronizing = job.gradients.in_flight and not ended
        if synchronizing:
            job.synchronized()
            self._watch.turn_ended(job.name, job.num_synced, job.gradients.signature)
        elif not ended:
            self._agreements.note(job.name, turn, -1)
        transfers, first = job.gradients.transfers if synchronizing else (), job.gradients.first_backward
        self._recorder.turn_ended(
            self._slot, job.name, turn, over, synchronizing=synchronizing, ended=ended, transfers=transfers, first=first
        )
        with job.gradients.on_stream():
            self._admission.after_turn(job, self._jobs.following, self._live)
            if not ended:
                self._frozen.turn_ended(job.name, job.num_synced, self._live, len(self._source.names))

    def _conclude(self, job: RunningJob) -> None:
        """Agree with all workers that the job has ended, and give back what it held. Collective."""
        self._jobs.remove(job)
        number = self._source.names.index(job.name)
        parts = (self._agreements, self._recovery, self._interruption, self._notify)
        outcome = agree_on_end(job, number, self._workers, *parts)
        self._waits.drain(job)
        lane = job.gradients.lane
        job.gradients.close()
        if lane is not None:
            self._workers.release_lane(lane)
        self._buffers.detach(job)
        self._seams.end_groups(job)
        self._hooks.end_job(job.name)
        self._admission.ended(job.name)
        if outcome.status == "finished" and job.gradients.num_ddp == 0:
            self._notify(job.name, NO_DDP)
        if outcome.error is not None:
            self._hooks.notify_user(failed_text(job))
        self._recorder.flush()
        held = self._admission.of(job.name, self._frozen.ended(job.name))
        nonfinite = self._finite.ended(job.name)
        self._ledger.ended(job.name, outcome.status, job.num_synced, outcome.result, outcome.error, held, nonfinite)
        result = self._ledger.finished[job.name]
        self._saving.job_ended(job.name, lambda: self._recovery.keep_result(job.name, result))
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
        self._saving.stop()
        self._interruption.settled()
        for name in self._jobs.stop_waiting():
            self._ledger.ended(name, "stopped", 0, None, None)

    def _stop_at_once(self, names: Sequence[str]) -> None:
        """End these jobs in good order, at the same slot on all workers."""
        while stopped := {name: job for name, job in self._live.items() if name in names}:
            job = self._jobs.next(stopped)
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
