"""A job's signals and timers, of which a process has one each: they reach that job alone, in a turn of its own.

A handler may raise, to end a job or what it does: then all workers must raise in the same turn, though a signal never
reaches them at the same moment. So what comes for a job is reported at the next agreement, and handled on all workers
when a turn of the job begins, as if it had come in the middle of the ``backward()`` that ends a turn. Where a turn
lasts, as with a time limit around an evaluation, it is handled at once: all workers are in that turn then. Whatever is
cancelled before (``signal.alarm(0)``) is not handled at all. Nothing is handled inside of Motet's own code, which must
not be left halfway. A worker without others need not wait for anybody.

Timers count as ever: `signal.ITIMER_REAL` and ``alarm`` by the clock on the wall, whoever computes; those of processor
time the job's turns, and their signals, which profilers use, are handled at once.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # it has no stubs
import errno
import functools
import math
import operator
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any

from motet.coroutines import RunningJob, Turns
from motet.jobs.outcome import JobStopped
from motet.patching import Call
from motet.workers.messages import SignalsReport

RETRY_SECONDS = 0.005
LONG_TURN_SECONDS = 0.25  # from then on signals are handled at once
BITS = 50  # that a number of an agreement carries: more jobs share them
# The handlers that a process begins with. What asks a run to stop is the run's: a job's handler is only remembered.
_STOPS: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
# What an instruction of this very thread causes, and what cannot be handled.
_NOT_APART = {
    signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGKILL, signal.SIGSTOP
}  # fmt: skip
_SIGNAL_OF = {signal.ITIMER_VIRTUAL: signal.SIGVTALRM, signal.ITIMER_PROF: signal.SIGPROF}
_HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}  # ignored where there is no handler
_MOTET = os.path.join(os.path.dirname(os.path.dirname(__file__)), "")
_CALL_A_JOB = (os.path.join(_MOTET, "jobs", ""), os.path.join(os.path.dirname(__file__), "groups.py"))
_LOOPS = (os.path.join(_MOTET, "demo", ""), os.path.join(_MOTET, "testing", ""))  # of jobs, like anybody's
real: Any = _signal  # what is called here: the module `signal` leads here while a run goes on
_all_signals: weakref.WeakSet[JobSignals] = weakref.WeakSet()


class JobSignals:
    """Who handles which signal, and whose timers run. On the main thread, like all turns."""

    def __init__(self, turns: Turns, *, alone: bool = True) -> None:
        self._turns = turns
        self._handlers: dict[tuple[str, int], Any] = {}  # by job
        self._before: dict[int, Any] = {}  # what handled a signal until a job wanted it
        self._alarms: dict[str, tuple[float, float]] = {}  # by job: when it is due, and how often from then on
        self._paused: dict[str, dict[int, tuple[float, float]]] = {}  # timers of processor time: what was left
        self._since = 0.0  # how much the process had computed then
        self._pending: dict[str, list[int]] = {}  # by job, what has come and was not handled yet
        self._ripe: dict[str, list[int]] = {}  # by job, what is handled when its next turn begins
        self._reported: dict[str, list[int]] = {}  # what was pending at the latest agreement
        self._turn_since = 0.0
        self._retry_at = math.inf
        self.alone = alone  # this worker has no others
        _all_signals.add(self)

    def begin(self) -> None:
        """Receive what is due; nothing to do outside of the main thread, where nothing can be handled."""
        if threading.current_thread() is threading.main_thread():
            self._listen(signal.SIGALRM)

    def set_handler(self, original: Call, number: int, handler: Any) -> Any:
        """Take a job's handler, and return the one that it had before."""
        job = self._turns.running_here()
        if job is None or number in _NOT_APART:
            return original(number, handler)
        if not callable(handler) and handler not in (signal.SIG_DFL, signal.SIG_IGN):
            return original(number, handler)  # which raises
        before = self.handler_of(job.name, number)
        if handler in (signal.SIG_DFL, signal.SIG_IGN):
            handler = signal.Handlers(handler)
        if handler is not signal.SIG_DFL and number not in _STOPS:
            self._listen(number)
        self._handlers[job.name, int(number)] = handler
        self._drop(job.name, number)
        return before

    def handler_of(self, job: str, number: int) -> Any:
        """Return what a job finds as its handler, and what is its handler in a process that it forks."""
        if (job, int(number)) in self._handlers:
            return self._handlers[job, int(number)]
        if number in _STOPS:
            return _STOPS[number]
        handler = self._before[number] if number in self._before else real.getsignal(number)
        return signal.Handlers(handler) if isinstance(handler, int) else handler

    def set_timer(self, original: Call, which: int, seconds: float, interval: float = 0.0) -> tuple[float, float]:
        """Set a job's timer, and return what was left of it."""
        job = self._turns.running_here()
        if job is None:
            return original(which, seconds, interval)  # type: ignore[no-any-return]
        seconds, interval = float(seconds), float(interval)
        if not (0 <= seconds < math.inf and 0 <= interval < math.inf):
            raise signal.ItimerError(errno.EINVAL, os.strerror(errno.EINVAL))
        if which != signal.ITIMER_REAL:
            self._paused.setdefault(job.name, {})[which] = (seconds, interval)
            self._since = time.process_time()
            self._listen(_SIGNAL_OF[which])
            return original(which, seconds, interval)  # type: ignore[no-any-return]
        before = self._left(job.name)
        self._alarms.pop(job.name, None)
        self._drop(job.name, signal.SIGALRM)
        if seconds > 0:
            self._alarms[job.name] = (time.monotonic() + seconds, interval)
        self._arm()
        return before

    def timer(self, original: Call, which: int) -> tuple[float, float]:
        """Return what is left of a job's timer."""
        job = self._turns.running_here()
        if job is None or which != signal.ITIMER_REAL:
            return original(which)  # type: ignore[no-any-return]
        return self._left(job.name)

    def alarm(self, original: Call, seconds: int) -> int:
        """Do what ``signal.alarm`` does."""
        if self._turns.running_here() is None:
            return original(seconds)  # type: ignore[no-any-return]
        return math.ceil(self.set_timer(real.setitimer, signal.ITIMER_REAL, seconds)[0])

    def send(self, job: str, number: int) -> bool:
        """Have a job handle a signal that it has sent to its own process; returns whether it is left to the job."""
        if number in _NOT_APART or number not in signal.valid_signals():
            return False
        current = self._turns.running_here()
        if current is not None and current.name == job:
            self._handle(job, [int(number)], sys._getframe(1))
        else:  # another thread has sent it
            self._queue(job, int(number))
            self._retry_at = time.monotonic()
            self._arm()
        return True

    def pending(self, names: Sequence[str]) -> SignalsReport:
        """Return for which jobs something has come, and for which it had come before, to be reported to the others.

        A number with a bit for each; ``names`` are those of all jobs, the same on every worker.
        """
        before = self._reported
        self._reported = {job: list(numbers) for job, numbers in self._pending.items() if numbers}
        return SignalsReport(_bits(self._reported, names), _bits(before.keys() & self._reported, names))

    def agreed(self, reports: Sequence[SignalsReport], names: Sequence[str]) -> None:
        """What has come everywhere, or is waited for in vain elsewhere, is ripe, by what all workers report."""
        if not self._reported:
            return
        ripe = functools.reduce(operator.and_, (int(report.pending) for report in reports))
        ripe |= functools.reduce(operator.or_, (int(report.pending_before) for report in reports))
        for job in [job for job in self._reported if int(_bits([job], names)) & ripe]:
            for number in self._reported.pop(job):
                if number in self._pending.get(job, ()):
                    self._pending[job].remove(number)
                    self._ripe.setdefault(job, []).append(number)

    def turn_begins(self, job: RunningJob) -> None:
        """Let those of its timers run that stand still while others compute."""
        self._turn_since = time.monotonic()
        for which, (seconds, interval) in self._paused.get(job.name, {}).items():
            self._since = time.process_time()
            real.setitimer(which, seconds, interval)

    def turn_ended(self, job: RunningJob) -> None:
        """Let them rest. What is left is counted here: the system counts ticks, and each turn would begin a new one."""
        timers = self._paused.get(job.name, {})
        for which, (before, interval) in list(timers.items()):
            left, _ = real.setitimer(which, 0.0)
            seconds = before - (time.process_time() - self._since)
            if seconds > 0 and left > 0:
                timers[which] = (seconds, interval)
                continue
            if left > 0 and not interval:  # otherwise it has come
                self._ripe.setdefault(job.name, []).append(_SIGNAL_OF[which])
            timers[which] = (interval, interval)
            if not interval:
                del timers[which]

    def resumed(self, job: RunningJob) -> None:
        """Handle what is ripe; called in the job's greenlet when its turn begins."""
        if self.alone:
            self._ripe.setdefault(job.name, []).extend(self._pending.pop(job.name, ()))
        if self._ripe.get(job.name):
            self._handle(job.name, self._ripe[job.name], None)

    def forget(self, job: str) -> None:
        """Forget a job that has ended: nothing is left that could interrupt others."""
        for key in [key for key in self._handlers if key[0] == job]:
            del self._handlers[key]  # and what they refer to: trainers, models
        for which in self._paused.pop(job, ()):
            real.setitimer(which, 0.0)
        for kept in (self._pending, self._ripe, self._reported):
            kept.pop(job, None)
        if self._alarms.pop(job, None) is not None:
            self._arm()

    def close(self) -> None:
        """Give the process its own handlers back, at the end of a run."""
        self._alarms.clear()
        self._pending.clear()
        if signal.SIGALRM in self._before:
            real.setitimer(signal.ITIMER_REAL, 0.0)
        while self._before:
            number, handler = self._before.popitem()
            _set(number, handler)

    def leave_child_alone(self) -> None:
        """In a process that was just forked: it handles signals as the job does that has forked it."""
        job = self._turns.current
        for number, before in self._before.items():
            handler = before if job is None else self.handler_of(job.name, number)
            _set(number, handler)

    def _listen(self, number: int) -> None:
        """Receive a signal of the process from now on."""
        if self._turns.interrupt_by(self):
            self._turn_since = time.monotonic()
        if number not in self._before:
            self._before[number] = real.getsignal(number)
            real.signal(number, self._arrived)

    def _left(self, job: str) -> tuple[float, float]:
        due, interval = self._alarms.get(job, (0.0, 0.0))
        return (max(due - time.monotonic(), 1e-6), interval) if due else (0.0, 0.0)

    def _arm(self) -> None:
        """Set the process's one timer for whatever is due next."""
        if signal.SIGALRM not in self._before:
            return
        due = min([self._retry_at, *(due for due, _ in self._alarms.values())])
        real.setitimer(signal.ITIMER_REAL, 0.0 if due == math.inf else max(due - time.monotonic(), 1e-6))  # 0: never

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: find out for whom it is, and run that job's handler now or remember it."""
        if number == signal.SIGALRM:
            self._note_alarms()
        else:
            for job, handled in self._handlers:
                if handled == number:
                    self._queue(job, number)
        current = self._turns.running_here()
        if current is not None and (pending := self._pending.get(current.name)):
            now, at_once = time.monotonic(), self.alone or number in _SIGNAL_OF.values()
            long_at = now if at_once else self._turn_since + LONG_TURN_SECONDS
            if long_at <= now and _in_its_own_code(frame):
                self._handle(current.name, pending, frame)
            else:
                self._retry_at = min(self._retry_at, max(long_at, now + RETRY_SECONDS))
                self._arm()

    def _note_alarms(self) -> None:
        now = time.monotonic()
        due = [job for job, (when, _) in self._alarms.items() if when <= now]
        retries, self._retry_at = self._retry_at <= now, math.inf
        for job in due:
            when, interval = self._alarms.pop(job)
            if interval > 0:
                self._alarms[job] = (when + interval * (1 + (now - when) // interval), interval)
        if not due and not retries:  # somebody has sent it
            due = [job for job, handled in self._handlers if handled == signal.SIGALRM]
        for job in due:
            self._queue(job, signal.SIGALRM)
        self._arm()

    def _queue(self, job: str, number: int) -> None:
        pending = self._pending.setdefault(job, [])
        if number not in pending:  # as the system has it: what comes twice before it is handled comes once
            pending.append(number)

    def _drop(self, job: str, number: int) -> None:
        for kept in (self._pending, self._ripe):
            if number in kept.get(job, ()):
                kept[job].remove(number)

    def _handle(self, job: str, numbers: list[int], frame: FrameType | None) -> None:
        """Run a job's handlers of signals, in its turn; what they raise is raised. ``numbers`` is emptied."""
        while numbers:
            number = numbers.pop(0)
            handler = self.handler_of(job, number)
            if callable(handler):
                handler(number, frame)
            elif handler is not signal.SIG_IGN and number not in _HARMLESS:
                name = signal.Signals(number).name
                raise JobStopped("failed", f"{name}: the job has set or sent it, and has no handler for it")


def _bits(jobs: Iterable[str], names: Sequence[str]) -> float:
    """Return a number with a bit for each job."""
    return float(sum({1 << names.index(job) % BITS for job in jobs if job in names}))


def _set(number: int, handler: Any) -> None:
    real.signal(number, handler if callable(handler) else int(handler or signal.SIG_DFL))


def _in_its_own_code(frame: FrameType | None) -> bool:
    """Whether the main thread is in a job's code, or in what that calls, and not in a call of Motet's."""
    innermost = frame
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_MOTET) and not file.startswith(_LOOPS):
            return frame is not innermost and file.startswith(_CALL_A_JOB)
        frame = frame.f_back
    return False


def _in_child() -> None:
    for signals in list(_all_signals):
        signals.leave_child_alone()


os.register_at_fork(after_in_child=_in_child)
