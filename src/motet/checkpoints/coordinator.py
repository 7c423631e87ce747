"""Save the jobs of a run while it goes on, and restore them when it begins again.

A job's state is whole only where its loop says so, at a *save point*. (Its turn ends inside ``backward()``, when the
optimizer has not used the gradients yet.) There every worker copies its part at once; a background thread writes it
while other jobs compute. No collective is needed: whether a save is due follows from turns, or from a clock that all
workers have agreed on, so it is due at the same save point everywhere; a worker whose part lies on the disk says so in
the store, and worker 0 commits when it has received all. Which checkpoint to restore is worker 0's decision.

A checkpoint that cannot be written harms nothing: it is reported once, and the training goes on.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from torch.optim import Optimizer

from motet.checkpoints import (
    CheckpointPart,
    Checkpoints,
    DataPosition,
    Done,
    Writer,
    check_plain,
    payloads_of,
    restore_job,
)
from motet.checkpoints.gang import SavedJob, SavingGang
from motet.checkpoints.policy import RecoveryPolicy
from motet.checkpoints.transfer import hand_out, packed, unpack
from motet.errors import CheckpointError, GangError, UsageError
from motet.jobs.outcome import JobStopped

LOOK_EVERY_SECONDS = 0.02
REFUSALS_BEFORE_NOTICE = 10

Notice = Callable[[str, str], None]


@dataclass(slots=True)
class _Save:
    """A checkpoint that worker 0 is gathering: what each worker has reported, or an error."""

    checkpoints: Checkpoints
    turn: int
    parts: dict[int, list[CheckpointPart]] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    committing: bool = False


class Coordinator:
    """All checkpoints of one run, on this worker.

    ``policy``: where they lie (nowhere: nothing is saved). ``notice(job, text)`` notifies the user of something, once;
    ``lost`` takes note of a `GangError` that is raised inside a job, whose loop may swallow it. ``start``: a name for
    this start of the gang, of which worker 0's counts. ``saved(job, turn)`` is called on worker 0 when a checkpoint is
    complete.
    """

    def __init__(
        self,
        workers: SavingGang,
        policy: RecoveryPolicy,
        notice: Notice,
        lost: Callable[[GangError], None],
        start: str | None = None,
        saved: Callable[[str, int], None] = lambda job, turn: None,
    ) -> None:
        self.disks = policy.disks
        self.endings = policy.endings
        self._saved = saved
        self.workers = workers
        self.directory = policy.checkpoints
        self.notice = notice
        self.lost = lost
        self.stopping = False
        self.clock_seconds = 0.0  # worker 0's, as all workers have received it
        self.start = start or uuid.uuid4().hex
        self._jobs: dict[str, JobSaver] = {}
        self._writer: Writer | None = None
        self._num_writing: dict[str, int] = {}
        self._open: dict[tuple[str, int], _Save] = {}
        self._to_send: dict[tuple[str, int], Checkpoints] = {}  # written on this host's own disk
        self._failing: set[str] = set()
        self._when_settled: dict[str, Callable[[], None]] = {}
        self._looked = 0.0

    def attach(self, job: SavedJob) -> None:
        """Let the job's loop register what it wants to have saved."""
        saving = self._jobs[job.name] = JobSaver(self, job)
        job.handle.saved_by(saving)
        job.call_before_end(saving.at_end)

    def tick(self, clock_seconds: float) -> None:
        """Take note of the time on worker 0's clock, by which jobs are due."""
        self.clock_seconds = clock_seconds

    def stop(self) -> None:
        """From now on every job that saves does so at its next save point, and ends there."""
        self.stopping = True

    def saves(self, job: str) -> bool:
        """Whether the job has registered objects, so that it can stop at a save point; the same on all workers."""
        return job in self._jobs and self._jobs[job].registered

    def write(self, checkpoints: Checkpoints, turn: int, payloads: Mapping[str, object]) -> None:
        """Copy the payloads now and have them written in the background."""
        self._writer = self._writer or Writer()
        job = checkpoints.job
        if self.workers.worker == 0:
            self._open[job, turn] = _Save(checkpoints, turn)
        elif self.disks.own:
            self._to_send[job, turn] = checkpoints
        try:
            self._writer.write(checkpoints, turn, payloads)
        except CheckpointError as error:  # what is to be saved has changed since it was checked
            self._part_ended(Done(job, turn, error=error))
            return
        self._num_writing[job] = self._num_writing.get(job, 0) + 1

    def poll(self) -> None:
        """Take note of what the background has done, pass it on, and commit what is complete. Does not block."""
        if self._writer is None or not (self._num_writing or self._open):
            return
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_SECONDS:
            return
        self._looked = now
        try:
            for done in self._writer.poll():
                if done.found is not None or (done.error is not None and done.parts):
                    self._commit_ended(done)
                else:
                    self._count_down(done.job)
                    self._part_ended(done)
            for save in list(self._open.values()):
                self._gather(save)
        except RuntimeError as error:
            raise GangError(f"Worker {self.workers.worker} lost the store that all workers share: {error}") from error
        self._settle()

    def finish(self, within_seconds: float) -> None:
        """Block until everything that was saved is on the disk, or so many seconds have passed; then end the thread."""
        deadline = time.monotonic() + within_seconds
        self.workers.watch.at("writing checkpoints")
        while self._num_writing or self._open:
            self.poll()
            if self.workers.watch.error is not None:
                raise self.workers.watch.error
            if time.monotonic() > deadline:
                jobs = sorted({*self._num_writing, *(job for job, _ in self._open)})
                for job in jobs:
                    self.notice(job, "has a checkpoint that was not complete in time; the one before it counts.")
                return
            time.sleep(LOOK_EVERY_SECONDS / 4)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def job_ended(self, name: str, then: Callable[[], None]) -> None:
        """Let go of what the job registered; call ``then`` when its last checkpoint is on the disk: now, or later."""
        saving = self._jobs.pop(name, None)
        if saving is not None:
            saving.close()
        self._when_settled[name] = then
        self._settle()

    # On its way

    def _count_down(self, job: str) -> None:
        left = self._num_writing.get(job, 1) - 1
        if left:
            self._num_writing[job] = left
        else:
            self._num_writing.pop(job, None)

    def _part_ended(self, done: Done) -> None:
        """Report to worker 0 that this worker's part is on the disk, or why not."""
        if self.workers.worker != 0:
            error, sent = str(done.error) if done.error else None, {}
            if (checkpoints := self._to_send.pop((done.job, done.turn), None)) is not None:
                try:
                    sent = packed(checkpoints, done.turn, done.parts)
                except CheckpointError as unsent:
                    error = error or str(unsent)
            report = {"parts": [asdict(part) for part in done.parts], "error": error, "sent": sent}
            self.workers.publish(_key(done.job, done.turn, self.workers.worker), json.dumps(report))
            return
        save = self._open[done.job, done.turn]
        save.parts[0] = list(done.parts)
        if done.error is not None:
            save.errors[0] = str(done.error)

    def _gather(self, save: _Save) -> None:
        """Look what the other workers have said of a checkpoint; commit it, or give it up, when all have."""
        job, workers = save.checkpoints.job, self.workers
        for worker in range(1, workers.num_workers):
            if worker in save.parts or (text := workers.lookup(_key(job, save.turn, worker))) is None:
                continue
            workers.unpublish(_key(job, save.turn, worker))
            report = json.loads(text)
            save.parts[worker] = [CheckpointPart(**part) for part in report["parts"]]
            try:
                unpack(save.checkpoints, save.turn, report["sent"])
            except CheckpointError as error:
                report["error"] = report["error"] or str(error)
            if report["error"] is not None:
                save.errors[worker] = report["error"]
        if len(save.parts) < workers.num_workers or save.committing:
            return
        if save.errors:
            save.checkpoints.abandon(save.turn)  # those who were well have left their parts
            self._abandoned(job, save.turn, save.errors[min(save.errors)])
            return
        assert self._writer is not None
        save.committing = True
        self._writer.commit(save.checkpoints, save.turn, [part for parts in save.parts.values() for part in parts])

    def _commit_ended(self, done: Done) -> None:
        if done.error is not None:
            self._abandoned(done.job, done.turn, str(done.error))
            return
        save = self._open.pop((done.job, done.turn))
        for problem in save.checkpoints.problems:
            self.notice(done.job, f"was saved, but: {problem}")
        if done.job in self._failing:
            self._failing.discard(done.job)
            self.notice(done.job, f"is saved again, from turn {done.turn} on.")
        self._saved(done.job, done.turn)

    def _abandoned(self, job: str, turn: int, error: str) -> None:
        del self._open[job, turn]
        if job not in self._failing:  # reported once, not at every turn that is due while a disk is full
            self._failing.add(job)
            self.notice(job, f"goes on without being saved: {error}")

    def _settle(self) -> None:
        for job in [*self._when_settled]:
            if job not in self._num_writing and all(name != job for name, _ in self._open):
                if self._writer is not None:
                    self._writer.forget(job)
                self._when_settled.pop(job)()


class JobSaver:
    """What one job registered, and when it was saved. Implements `motet.handle.Keeper`."""

    def __init__(self, saving: Coordinator, job: SavedJob) -> None:
        self._saving = saving
        self._job = job
        self._objects: dict[str, object] = {}
        self._checkpoints: Checkpoints | None = None
        self._every_turns: int | None = None
        self._every_seconds: float | None = None
        self._saved_turn = 0
        self._saved_clock = 0.0
        self._stepped_after: int | None = None  # how many backwards there had been at the optimizer's last step
        self._num_refused = 0
        self._undo: list[Callable[[], object]] = []

    @property
    def registered(self) -> bool:
        """Whether there is something to save, and somewhere."""
        return self._checkpoints is not None

    def begin(
        self, objects: Mapping[str, object], every_turns: int | None, every_minutes: float | None, keep: int
    ) -> int:
        """Register ``objects`` and restore them, on all workers alike; return how many turns they have behind them."""
        job, saving = self._job, self._saving
        if self._objects:
            raise UsageError(f"job '{job.name}': checkpoint() was called twice; give it all objects in one call")
        # Worker 0 saves more than the others: what cannot be saved has to be refused on all of them alike.
        for payload in payloads_of(objects, 0).values():
            check_plain(payload)
        self._objects = dict(objects)
        if saving.directory is None:
            saving.notice(job.name, "asks for checkpoints, but this run has no run directory: nothing is saved.")
            return 0
        self._every_turns = every_turns
        self._every_seconds = None if every_minutes is None else every_minutes * 60
        workers = saving.workers
        checkpoints = Checkpoints(
            saving.directory,
            job.name,
            worker=workers.worker,
            num_workers=workers.num_workers,
            keep=keep,
            attempt=saving.start,
        )
        turn = self._restore(checkpoints)
        self._checkpoints = checkpoints
        self._saved_turn, self._saved_clock = turn, saving.clock_seconds
        job.go_on_after(turn)
        self._listen()
        return turn

    def _restore(self, checkpoints: Checkpoints) -> int:
        """Restore what worker 0 finds, on every worker; return its turn, 0 if there is nothing."""
        job, saving = self._job, self._saving

        def look() -> str:
            checkpoints.remove_leftovers()
            saving.endings.forget(job.name)
            found = checkpoints.latest()
            name = None if found is None else found.name
            return json.dumps({"start": saving.start, "found": name, "problems": checkpoints.problems})

        try:
            answer = saving.workers.broadcast_from_0(look, key=f"checkpoint/{job.name}", job=job.name, turn=job.turn)
        except GangError as error:
            saving.lost(error)
            raise
        report = json.loads(answer)
        checkpoints.begin_attempt(report["start"])
        for problem in report["problems"]:
            saving.notice(job.name, f"passes over a checkpoint: {problem}")
        if report["found"] is None:
            return 0
        if saving.disks.separate:
            hand_out(saving.workers, checkpoints, report["found"], job.name, own_disk=saving.disks.own)
        restored = restore_job(checkpoints, checkpoints.open(report["found"]), self._objects)
        for note in restored.notes:
            saving.notice(job.name, f"goes on from another state: {note}")
        return restored.turn

    def _listen(self) -> None:
        """Have the data say when it is asked for a batch, and the optimizers when they have stepped."""
        for each in self._objects.values():
            if isinstance(each, DataPosition):
                self._undo.append(each.call_before_next(self._next_batch))
            elif isinstance(each, Optimizer):
                self._stepped_after = -1
                self._undo.append(each.register_step_post_hook(self._stepped).remove)

    def _stepped(self, *ignored: object) -> None:
        self._stepped_after = self._job.num_backwards

    def _next_batch(self) -> None:
        """The loop asks for its next batch: a save point, unless gradients are being accumulated."""
        if self._stepped_after in (None, self._job.num_backwards):
            self._num_refused = 0
            self.save_point()
        elif self._due() and self._stepped_after != -1:
            self._num_refused += 1
            if self._num_refused == REFUSALS_BEFORE_NOTICE:
                self._saving.notice(
                    self._job.name,
                    "is due to be saved, but each time that it asks for a batch the optimizer has not stepped since "
                    "the last backward(): have the loop call save_point() where it could start again.",
                )

    def save_point(self) -> None:
        """Save if it is due; end the job here if the run stops."""
        stopping = self._saving.stopping
        if self._checkpoints is not None and self._job.num_synced > self._saved_turn and (stopping or self._due()):
            self._save(self._checkpoints)
        if stopping:
            raise JobStopped

    def at_end(self, result: object) -> None:
        """Save how the job has ended; its loop has returned ``result``."""
        if self._checkpoints is not None and self._job.num_synced > self._saved_turn:
            if self._saving.workers.worker == 0:
                self._saving.endings.keep(self._job.name, self._job.num_synced, result)
            self._save(self._checkpoints)

    def _due(self) -> bool:
        if self._every_turns is not None and self._job.num_synced - self._saved_turn >= self._every_turns:
            return True
        since = self._saving.clock_seconds - self._saved_clock
        return self._every_seconds is not None and since >= self._every_seconds

    def _save(self, checkpoints: Checkpoints) -> None:
        turn = self._job.num_synced
        self._saved_turn, self._saved_clock = turn, self._saving.clock_seconds
        self._saving.write(checkpoints, turn, payloads_of(self._objects, checkpoints.worker))

    def close(self) -> None:
        """Let go of the objects."""
        for undo in self._undo:
            undo()
        self._undo.clear()
        self._objects, self._checkpoints = {}, None


def _key(job: str, turn: int, worker: int) -> str:
    return f"checkpoint/{job}/{turn}/{worker}"
