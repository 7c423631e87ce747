"""What the process of one job does: it runs the job's loop as its own program, and reports to the worker.

The process is what torchrun would have started. Its environment, its working directory, its signals, its threads and
its end are its own; so is its process group, which its own ``init_process_group`` makes, in a part of the gang's store
that no other job uses. Added is what gives the turn away (`motet.processes.waits`).
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import pickle
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch._C._distributed_c10d import PrefixStore, Store

from motet import handle
from motet.checkpoints import resuming
from motet.checkpoints.coordinator import Coordinator
from motet.checkpoints.policy import Disks, Endings, RecoveryPolicy
from motet.events import Diverged, Event
from motet.gradients.nonfinite import FiniteCheck, error_for
from motet.handle import JobHandle, JobPruned
from motet.intercept.forked import end_forked
from motet.jobs import Job, JobExit, JobSpec, Script
from motet.jobs.outcome import JobStopped
from motet.jobs.surroundings import JobSurroundings
from motet.memory.footprint import is_measured
from motet.processes import waits
from motet.processes.channel import Channel
from motet.processes.council import Council
from motet.processes.ends import is_echo
from motet.processes.job_messages import (
    DivergenceReport,
    EndReport,
    LengthReport,
    LogReport,
    NoticeReport,
    ParametersReport,
    ResumeReport,
    SaveReport,
    Start,
)
from motet.processes.own_weights import OwnWeights
from motet.processes.peers import Peers
from motet.processes.reporting_ledger import ReportingLedger
from motet.processes.room import Holdings
from motet.processes.search import AsksWorker
from motet.processes.turn_table import Seat, Table
from motet.processes.turns import QUANTUM_SECONDS, JobTurns
from motet.run_dir import RunDir
from motet.same_files import SameFiles
from motet.tracebacks import short_form, traceback_text
from motet.trainers.length import turns_expected
from motet.trainers.metrics import Reported
from motet.workers.interruption import explains
from motet.workers.messages import GO_ON, STOP_NOW

FAILED_STATUS = 1
FAILED_CLOSE_SECONDS = 2.0
"""So long is a checkpoint waited for that was on its way when the job failed. The other workers' processes can tell
of their parts only if they have failed as well; those that have not wait for this one to end.
"""
UNEVEN = (
    "does not take the same number of turns on all workers (uneven inputs?), so it cannot be stopped at a save point, "
    "and no clock tells it to save. Wrap the loop in torch's Join, or give all workers equally many batches."
)


class JobProcess:
    """The job that lives in this process."""

    def __init__(self, start: Start, call: Callable[..., object] | None) -> None:
        self._start = start
        self._call = call
        self.name = start.name
        self._channel = Channel(socket.socket(fileno=start.channel))
        seat = Seat(Table(len(start.wake), strict=start.strict, fd=start.table), start.seat, start.wake)
        self._seat = seat
        quantum = QUANTUM_SECONDS if start.num_workers == 1 and not start.strict else 0.0
        self.turns = JobTurns(seat, self._turn_ended, self._backward, quantum_seconds=quantum)
        self._before_end: Callable[[object], None] = lambda result: None
        self.handle = JobHandle(
            start.name,
            None if start.job_dir is None else Path(start.job_dir),
            self._log,
            self._expect,
            self._describe,
            self._yield_turn,
        )
        self._holdings = Holdings()
        self._reported = Reported(self._log, lambda: self.handle.logs_itself)
        self._finite = FiniteCheck(self._observe, lambda job, text: None)
        self._num_turns = start.turns
        self._offset = 0  # turns of before a resume
        self._over = False
        self._saving: Coordinator | None = None
        self._council: Council | None = None
        self._weights = OwnWeights(self._channel) if start.share_frozen else None

    # As `motet.checkpoints.coordinator` asks

    @property
    def num_synced(self) -> int:
        """Synchronized turns, those before a resume included."""
        return self._offset + self.turns.num_turns

    def call_before_end(self, call: Callable[[object], None]) -> None:
        """Have ``call`` be called with what the loop has returned."""
        self._before_end = call

    def go_on_after(self, turns: int) -> None:
        """Note that the job goes on from a checkpoint, after so many synchronized turns."""
        self._offset = turns - self.turns.num_turns
        self._channel.send(ResumeReport(turns))

    @property
    def turn(self) -> int:
        """The turn that runs."""
        return self.num_synced + 1

    @property
    def num_backwards(self) -> int:
        """Backwards in all, those that did not synchronize included."""
        return self.turns.num_backwards

    def run(self) -> int:
        """Run the loop to its end; return the process's exit status."""
        start = self._start
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._asked_to_end)
        os.register_at_fork(after_in_child=self._leave_child_alone)
        os.register_at_fork(after_in_child=self.turns.leave_to_parent)
        faulthandler.enable()
        store = _own_store(start)
        peers = self._peers = Peers(PrefixStore("job", store), start.worker, start.num_workers, start.timeout_seconds)
        self._council = Council(peers, lambda: self._seat.stop_request, lambda: self._notice(self.name, UNEVEN))
        attempt, notice = f"{start.start}_{start.attempt}", self._notice
        self._saving = Coordinator(peers, _policy(start), notice, lambda error: None, attempt, self._report_saved)
        self._saving.attach(self)
        handle.set_current(self.handle)
        files = self._files = SameFiles(
            peers, "warn", _path(start.run_dir), _no_notice, ReportingLedger(self._channel.send)
        )
        files.events.of_job(self.name)  # its threads are its own, all of them
        self.turns.begin()
        waits.patch(self.turns, lambda model: None if self._weights is None else self._weights.built(model))
        with files.watching():
            try:
                ended = self._ended()
            finally:
                self._over = True  # a stop that comes from now on must not lose the last checkpoint
                self.turns.end()
                files.turn_ended(self.name)
        self._channel.send(ended)  # first: whatever ends this process from now on, the worker knows why the loop ended
        self._close(self._start.timeout_seconds if ended.error is None else FAILED_CLOSE_SECONDS)
        waits.job_over()  # multiprocessing ends them by SIGTERM, and waits
        return 0 if ended.error is None else FAILED_STATUS

    def _ended(self) -> EndReport:
        """Run the loop; return how it ended."""
        try:
            result = self._result()
            self._reported.flush()
            self._before_end(result)
            return self._end("finished", result=self._keep(result))
        except JobStopped as stopped:
            outcome = stopped.outcome()
            return self._end(outcome.status, outcome.kind, outcome.error)
        except JobPruned:
            return self._end("pruned")
        except BaseException as error:
            if isinstance(error, JobExit) and isinstance(error.__cause__, SystemExit):
                error = error.__cause__
            text = traceback_text(error, getattr(sys.stderr, "last_line", ""))
            try:
                belongs_to_stop = explains(text, lambda: self._seat.stop_request != GO_ON)
            except JobStopped:  # it cannot wait any longer
                belongs_to_stop = True
            return self._end("failed", type(error).__name__, text, printed=not belongs_to_stop)

    def _end(
        self, status: str, kind: str = "", error: str | None = None, result: str | None = None, *, printed: bool = True
    ) -> EndReport:
        if error is not None and printed:
            # Worker 0's process shows what was met elsewhere: of an echo, one line will do.
            sys.stderr.write((short_form(error) if is_echo(error) else error.rstrip()) + "\n")
        return EndReport(status, self.num_synced, kind, error, len(self.turns.all_models), result)

    def _result(self) -> object:
        start = self._start
        if self._call is None:
            assert start.spec is not None
            spec = JobSpec.from_json(start.spec)
            job = Job(start.name, _nothing, start.turns, None, start.cwd, start.env)
            if start.seed is None:
                _fresh_entropy()
            JobSurroundings(start.worker, start.seed).begin(job)
            call = spec.callable()
        else:
            call = self._call
            if start.given is not None:
                asks = AsksWorker(self._channel, start.asks, self._peers, self.turns)
                call = partial(call, start.name, start.given, asks)
            job = Job(start.name, call, start.turns, None, start.cwd, start.env)
            JobSurroundings(start.worker, start.seed).begin(job)
        if isinstance(call, Script):
            call.leave_sys()
        process, result = os.getpid(), None
        try:
            result = call()
        except BaseException as error:
            end_forked(process, error, atexit._run_exitfuncs)
            if not isinstance(error, SystemExit) or error.code not in (None, 0):
                raise
        end_forked(process, None, atexit._run_exitfuncs)
        return result

    def _keep(self, result: object) -> str | None:
        """Leave what a loop returned in a file; what cannot be pickled is left out, with a notice."""
        if result is None:
            return None
        path = None
        try:
            handle_, path = tempfile.mkstemp(prefix=".result-", dir=self._start.job_dir)  # this user's alone
            with open(handle_, "wb") as file:
                _pickle(result, file)
        except Exception as error:
            if path is not None:
                os.unlink(path)
            if isinstance(error, OSError):
                self._notice(
                    self.name, f"has ended, but its result could not be handed over ({error}): it is left out."
                )
                return None
            self._notice(
                self.name,
                f"returned a {type(result).__name__} that cannot be pickled ({type(error).__name__}: {error}), so its "
                "result is left out; return plain values or tensors.",
            )
            return None
        return path

    def _close(self, within_seconds: float) -> None:
        assert self._saving is not None
        self._saving.job_ended(self.name, lambda: None)
        self._saving.finish(within_seconds)

    # In each turn

    def _backward(self, frame: FrameType | None) -> None:
        """A backward begins: what its trainer reports."""
        self._reported.look(frame)
        if self.turns.num_turns == 0 and self._num_turns is None and (turns := turns_expected(frame)) is not None:
            self.handle.expect(turns)

    def _turn_ended(self, turns: int) -> None:
        """A turn has been synchronized: on all workers, in the same turn."""
        assert self._saving is not None
        assert self._council is not None
        self._saving.poll()
        models = self.turns.models
        self._files.turn_ended(self.name)
        self._files.turn_begins(self.name)
        self._finite.synced(self.name, self.num_synced, models)
        if self._weights is not None:
            self._weights.turn_ended(turns)
        if is_measured(turns):
            self._channel.send(self._holdings.report(turns, self.turns.all_models))
        decision = None if self.turns.uneven else self._council.consult(self.turns.num_even)
        if self._start.on_nan != "ignore":
            error = error_for(self._start.on_nan, self.name, self.num_synced, models)
            if error is not None:
                raise error
        if decision is None:
            return
        self._saving.tick(decision.clock_seconds)
        if decision.stop_request != GO_ON:
            self._saving.stop()
            if decision.stop_request == STOP_NOW or not self._saving.saves(self.name):
                raise JobStopped

    # What the loop reports

    def _log(self, values: dict[str, float]) -> None:
        self._channel.send(LogReport(self.turn, values))

    def _expect(self, turns: int | None) -> None:
        self._num_turns = turns
        self._channel.send(LengthReport(turns))

    def _describe(self, values: Any) -> None:
        self._channel.send(ParametersReport({name: _plain(value) for name, value in values.items()}))

    def _report_saved(self, job: str, turn: int) -> None:
        self._channel.send(SaveReport(turn))

    def _notice(self, job: str, text: str) -> None:
        self._channel.send(NoticeReport(text))

    def _observe(self, event: Event) -> None:
        if isinstance(event, Diverged):
            self._channel.send(DivergenceReport(self.num_synced, event.value))

    def _yield_turn(self) -> bool:
        if not self.turns.can_wait:
            return False
        with self.turns.away():
            pass
        return True

    def _asked_to_end(self, number: int, frame: FrameType | None) -> None:
        """SIGINT and SIGTERM reach every process of a run, where they are meant for all: the worker asks us to stop.

        It ends this process by the same signal when it has waited long enough.
        """
        if self._seat.stop_request == STOP_NOW and not self._over:
            raise JobStopped

    def _leave_child_alone(self) -> None:
        """What a job forks is no job: signals end it as they end any process, unless the job says otherwise."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) == self._asked_to_end:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _policy(start: Start) -> RecoveryPolicy:
    endings = Endings()
    if start.worker == 0 and start.run_dir is not None:
        endings = resuming.endings(RunDir.open(start.run_dir), torch.save)
    return RecoveryPolicy(_path(start.checkpoints), Disks(start.separate_disks, start.own_disk), endings)


def _own_store(start: Start) -> Store:
    """Have ``env://`` mean a part of the gang's store that is this job's alone, and return one for Motet itself."""
    prefix = f"{start.prefix}/{start.name}/{start.attempt}"
    handlers = import_module("torch.distributed.rendezvous")._rendezvous_handlers  # its name there is a function
    store = next(iter(handlers["env"]("env://")))[0]
    for scheme in ("env", "tcp", "file"):  # each of them may lead to a store that other jobs use, too
        handlers[scheme] = partial(_apart, handlers[scheme], prefix)
    return PrefixStore(f"{prefix}/motet", store)


def _apart(
    whole: Callable[..., Any], prefix: str, url: str, *args: Any, **kwargs: Any
) -> Iterator[tuple[Store, int, int]]:
    for store, rank, world_size in whole(url, *args, **kwargs):
        yield PrefixStore(prefix, store), rank, world_size


def _fresh_entropy() -> None:
    """A process of its own would have seeded itself; this one was forked from one that had."""
    import random

    import numpy

    torch.seed()
    numpy.random.seed()
    random.seed()


def _pickle(value: object, file: Any) -> None:
    try:
        pickle.dump(value, file)
    except Exception:
        try:
            import cloudpickle
        except ImportError:
            raise
        file.seek(0)
        file.truncate()
        cloudpickle.dump(value, file)


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)[:200]


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _no_notice(job: str | None, text: str) -> None:
    """Say nothing: the worker does, which knows of all jobs."""


def _nothing() -> None:
    raise AssertionError("never called")
