"""A job as a greenlet: begin a turn, end it.

All jobs of a worker run on its main thread, one at a time (ADR 0001). `Turns.take` gives a job the main thread; it
comes back when the job's outermost ``backward()`` has sent gradients on their way (`Turns.end`, called by the seam)
or when the job has ended. What Python programs keep in globals changes with the job (`motet.isolation`).
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
import torch.distributed as dist
from greenlet import getcurrent, greenlet

from motet import handle, isolation
from motet.errors import GangError
from motet.gradients import JobGradients
from motet.handle import JobHandle, JobPruned
from motet.jobs import JobExit, Script
from motet.jobs.outcome import JobOutcome, JobStopped
from motet.tracebacks import traceback_text
from motet.trainers.metrics import Reported


class RunningJob:
    """One job on this worker: its greenlet, its gradients, its own view of the global state.

    ``turn`` counts from 1: the turn that runs or runs next; ``num_synced`` the turns that synchronized,
    ``num_turns`` how many it will be, if the job has said. ``prepare`` is called in the job's greenlet before its loop;
    ``belongs_to_stop`` says whether an error is a part of a stop.
    """

    def __init__(
        self,
        name: str,
        call: Callable[[], object],
        gradients: JobGradients,
        job: JobHandle,
        *,
        num_turns: int | None = None,
        prepare: Callable[[], None] = lambda: None,
        belongs_to_stop: Callable[[str], bool] = lambda error: False,
    ) -> None:
        self.name = name
        self.gradients = gradients
        self.handle = job
        self.reported = Reported(job.log_for_trainer, lambda: job.logs_itself)
        self.num_synced = 0
        self.num_turns = num_turns
        self.outcome: JobOutcome | None = None
        self.groups: list[dist.ProcessGroup] = []
        self.optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._compile_region = -1
        self.num_backwards = 0  # with those that did not synchronize
        self._prepare = prepare
        self._belongs_to_stop = belongs_to_stop
        self._before_end: Callable[[object], None] = lambda result: None
        self.saved: isolation.Saved | None = None
        self.greenlet: greenlet | None = None
        self._call = call

    @property
    def turn(self) -> int:
        """The turn that runs, or runs next."""
        return self.num_synced + 1

    def go_on_after(self, turns: int) -> None:
        """Note that the job goes on from a checkpoint, after so many synchronized turns."""
        self.num_synced = turns

    def call_before_end(self, call: Callable[[object], None]) -> None:
        """Have ``call`` be called with what the loop has returned, before the job has ended."""
        self._before_end = call

    def backward_begins(self) -> None:
        """Count a backward."""
        self.num_backwards += 1

    def compile_region(self, regions: Iterator[int]) -> int:
        """Return the number under which the job's compiled code is kept: the next of ``regions`` at the first call."""
        if self._compile_region < 0:
            self._compile_region = next(regions)
        return self._compile_region

    def synchronized(self) -> None:
        """Note that the turn has sent gradients: the next one is another turn."""
        self.num_synced += 1

    def expect(self, turns: int) -> None:
        """Note how many turns it will take in all."""
        self.num_turns = turns

    def counts_as(self, outcome: JobOutcome) -> None:
        """Note that all workers take its end for ``outcome``."""
        self.outcome = outcome

    def run(self) -> None:
        """Run the loop to its end; the greenlet's body. Only a `GangError` is raised: see ``outcome``."""
        not_ours = isolation.open_runs()
        try:
            self._prepare()
            result = self._result()
            self.reported.flush()
            self._before_end(result)
            self.outcome = JobOutcome("finished", result=result)
        except JobStopped as stopped:
            self.outcome = stopped.outcome()
            _print_error(self.outcome.error)
        except JobPruned:
            self.outcome = JobOutcome("pruned")
        except GangError:
            raise  # in the pipeline: it is the run that has ended, not this job
        except BaseException as error:
            # SystemExit, too: a loop that exits with a status other than 0 has failed, and only this job.
            if isinstance(error, JobExit) and isinstance(error.__cause__, SystemExit):
                error = error.__cause__
            text = traceback_text(error, getattr(sys.stderr, "last_line", ""))
            self.outcome = JobOutcome("failed", kind=type(error).__name__, error=text)
            if not self._belongs_to_stop(text):
                _print_error(text)
        finally:
            self._call = _ended
            isolation.end_runs(not_ours, failed=self.outcome is None or self.outcome.status == "failed")

    def _result(self) -> object:
        try:
            return self._call()
        except SystemExit as error:
            if error.code not in (None, 0):
                raise
            return None

    def abandon(self, outcome: JobOutcome | None = None) -> None:
        """Leave a loop that swallows `JobStopped` where it stands; it is never resumed."""
        _never_resumed.append(self.greenlet)  # collecting a greenlet would raise inside it
        self.outcome, self.greenlet, self.saved = outcome or JobOutcome("stopped"), None, None


_all_turns: weakref.WeakSet[Turns] = weakref.WeakSet()
_never_resumed: list[greenlet | None] = []


def _ended() -> None:
    raise AssertionError("a job runs once")


def _print_error(text: str | None) -> None:
    """Print what ended the job on its stderr, as Python does at the end of a program: it goes to the log, too."""
    if text is None:
        return
    with contextlib.suppress(Exception):  # a script may have put anything there
        sys.stderr.write(text.rstrip() + "\n")


class Interrupts(Protocol):
    """Whoever has to know that turns begin and end because something of a job's may interrupt it."""

    def turn_begins(self, job: RunningJob) -> None:
        """The job's turn begins."""

    def turn_ended(self, job: RunningJob) -> None:
        """It is over."""

    def resumed(self, job: RunningJob) -> None:
        """It has begun, and this is called in the job's greenlet: what is raised here is raised in its loop."""


class Turns:
    """Whose turn it is on this worker. Lives on the main thread; the pipeline runs in the greenlet that made it."""

    def __init__(self) -> None:
        self.current: RunningJob | None = None
        self._signals: Interrupts | None = None
        self._hub = getcurrent()
        self._thread: int | None = threading.get_ident()
        _all_turns.add(self)
        self._at_begin = isolation.take_all().copy()
        self._outside: isolation.Saved | None = None  # what belongs there between turns; None: it is there
        self._left: isolation.Saved | None = None  # of the latest turn's job: what is there still

    def admit(self, job: RunningJob, *, script: Script | None = None) -> None:
        """Prepare a job to take turns. It begins with the global state that the run itself began with.

        A ``script`` imports the modules of its own folder anew, whoever else has imported them.
        """
        job.saved = self._at_begin.copy()
        if script is not None:
            isolation.prepare_script(job.saved, script.anchor)
            script.call_at_end(isolation.note_modules)
        job.greenlet = greenlet(job.run, parent=self._hub)
        job.greenlet.gr_context = contextvars.copy_context()

    def interrupt_by(self, signals: Interrupts) -> bool:
        """From now on have jobs interrupted: one has signals or timers of its own. Returns whether that is new."""
        new, self._signals = self._signals is None, signals
        return new

    def running_here(self) -> RunningJob | None:
        """Return the job whose code calls, or None outside of jobs and on other threads than the main one.

        None in a process that a job has forked: no turn ends there, and nothing of it is Motet's.
        """
        return self.current if threading.get_ident() == self._thread else None

    def take(self, job: RunningJob, *, throw: BaseException | None = None) -> None:
        """Let ``job`` compute until its turn ends; ``throw`` is raised at the place where its last turn ended."""
        assert job.greenlet is not None
        assert job.saved is not None
        if throw is not None and not job.greenlet:  # it has not begun: there is no place to raise anything at
            job.outcome = throw.outcome() if isinstance(throw, JobStopped) else JobOutcome("stopped")
            job.saved = job.greenlet = None
            return
        if self._outside is None:
            self._outside = self._left = isolation.take_all()
        assert self._left is not None
        left, self._left = self._left, None
        isolation.swap_in(job.saved, left, self._outside)
        self.current = job
        handle.set_current(job.handle)
        if self._signals is not None:
            self._signals.turn_begins(job)
        try:
            if throw is None:
                job.greenlet.switch()
            else:
                job.greenlet.throw(throw)
        finally:
            if self._signals is not None:
                self._signals.turn_ended(job)
            handle.set_current(None)
            self.current = None
            job.saved = self._left = isolation.swap_out(self._outside)
        if job.outcome is not None:
            job.saved = job.greenlet = None

    def settle(self) -> None:
        """Let code that is not ours find, between turns, what it would find without Motet; it may change it."""
        if self._outside is not None and self.current is None:
            outside, self._outside = self._outside, None
            isolation.restore_outside(outside, self._left)
            self._left = None

    def end(self) -> None:
        """End the current job's turn; returns when its next one begins. Called in the job's greenlet."""
        self._hub.switch()
        if self._signals is not None and self.current is not None:
            self._signals.resumed(self.current)

    def may_end(self) -> bool:
        """Whether a turn may end here: torch holds nothing global that another job would disturb.

        Autocast's cast cache is one for all, and emptied whenever the outermost autocast block of *any* job ends.
        """
        if not torch.is_autocast_cache_enabled():
            return True
        if torch.is_autocast_enabled("cpu"):
            return False
        accelerator = torch.accelerator.current_accelerator()
        return accelerator is None or not torch.is_autocast_enabled(accelerator.type)

    def leave_child_alone(self) -> None:
        """In a process that was just forked: nobody has turns there."""
        self._thread = None


def _in_child() -> None:
    for turns in list(_all_turns):
        turns.leave_child_alone()


os.register_at_fork(after_in_child=_in_child)
