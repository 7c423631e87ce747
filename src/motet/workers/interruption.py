"""Ctrl-C and SIGTERM during a run, and its time limit: the first asks all workers to stop together, at a save point.

SIGUSR1 and SIGUSR2 ask for the same: batch systems are asked to send them before the end. A run that was asked to stop
has 30 seconds. Jobs that save checkpoints may go on to their next save point for `PATIENCE_SECONDS`; then all are
stopped where they are. A second Ctrl-C ends this worker at once. Time in which the processes themselves were stopped
(Ctrl-Z) does not count: they would have nothing left to save in.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from motet.errors import GangError
from motet.timing.clocks import Waited
from motet.workers.messages import GO_ON, STOP, STOP_NOW

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
PATIENCE_SECONDS = 12.0
GRACE_SECONDS = 20.0
ECHO_SECONDS = 2.0
# What a job meets when a process that it has started is ended under its hands.
_ENDED_FROM_OUTSIDE = re.compile(
    r"DataLoader worker \(pid|SIGTERM|BrokenProcessPool|BrokenPipeError|Connection(Reset|Refused)Error|EOFError"
)
# Whoever forks a DataLoader worker: it goes on with the run's handlers until it sets its own (`motet.coroutines`).
_LOADERS = os.path.join("torch", "utils", "data", "dataloader.py")
_listening: Interruption | None = None


def explains(error: str, requested: Callable[[], bool]) -> bool:
    """Return whether a stop was ``requested``; blocks for a moment where that may be heard later than its effects."""
    deadline = time.monotonic() + (ECHO_SECONDS if _ENDED_FROM_OUTSIDE.search(error) else 0.0)
    while not requested() and time.monotonic() < deadline:
        time.sleep(0.01)
    return requested()


class Interruption:
    """Whether somebody asked this run to stop. A signal handler only takes note; the pipeline acts on it.

    ``stop_after_seconds``: when the run is to stop by itself, from now on.
    """

    def __init__(self, stop_after_seconds: float | None = None) -> None:
        self.signal_name: str | None = None
        self.agreed = False  # the workers have settled that they stop
        self._handler_in_child: Callable[[int], Any] = self.handler_before  # what a process finds that is forked now
        self._before: dict[int, Any] = {}
        self._asked = Waited()  # begun again when somebody asked
        self._unseen: int | None = None  # where the numbers of signals can be read that the main thread has not seen
        self._noted_early: set[int] = set()  # signals that only `check_signals` has noted so far
        self._limit = None if stop_after_seconds is None else time.monotonic() + stop_after_seconds

    def ask_for_handlers(self, handler_in_child: Callable[[int], Any]) -> None:
        """From now on give a process that is forked the handlers of signals that ``handler_in_child`` returns."""
        self._handler_in_child = handler_in_child

    @property
    def requested(self) -> bool:
        """Whether this worker was asked to stop, or its time is up."""
        if self.signal_name is None and self._limit is not None and time.monotonic() >= self._limit:
            self._note_request("the time limit (--stop-after)")
        return self.signal_name is not None

    @property
    def stop_request(self) -> int:
        """What this worker reports to the others: `GO_ON`, `STOP`, or `STOP_NOW`."""
        if not self.requested:
            return GO_ON
        return STOP_NOW if self._asked.seconds > PATIENCE_SECONDS else STOP

    def look(self) -> bool:
        """Return whether this worker was asked to stop; to be called each second, or its own stops would count."""
        return self.signal_name is not None and self._asked.seconds >= 0.0

    @property
    def seconds_left(self) -> float:
        """How long this worker may still take to end in good order, once it was asked to stop."""
        return max(0.0, GRACE_SECONDS - self._asked.seconds)

    @property
    def seconds_to_end(self) -> float:
        """How long a job may still take to end: of a stop, half of what is left, as checkpoints are written then."""
        return self.seconds_left / 2 if self.requested else math.inf

    def explains(self, error: str) -> bool:
        """Whether the run is being stopped, so that a job's ``error`` is a part of that and no failure of the job.

        Where a process of the job's may have been ended, the signal that ended it may reach this worker only now:
        blocks for `ECHO_SECONDS` at most until it does.
        """
        return explains(error, lambda: self.requested)

    def settled(self) -> None:
        """Take note that all workers have agreed to stop, whoever was asked."""
        self.agreed = True
        if self.signal_name is None:
            self._note_request("another worker")

    def hopeless(self) -> GangError | None:
        """Return an error once the other workers have not come along for too long, else None."""
        if not self.agreed and self.signal_name is not None and self._asked.seconds > GRACE_SECONDS:
            return GangError(
                f"{self.signal_name}: the workers could not agree within {GRACE_SECONDS:.0f} s on a turn to stop at"
            )
        return None

    def check_signals(self) -> GangError | None:
        """Take note, on another thread, of signals for a main thread that is blocked outside of Python; see `hopeless`.

        Python's handlers run on the main thread only, which inside a collective may not come back.
        """
        for number in self._read_unseen():
            if number == signal.SIGINT and self._asked_before():
                os._exit(130)
            if number in STOP_SIGNALS:
                self._noted_early.add(number)
                self._note_request(signal.Signals(number).name)
        return self.hopeless()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for the duration of the block; only a main thread can, elsewhere nothing is taken."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        global _listening
        self._unseen, written = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # What is ignored stays ignored: `nohup`, a shell's background, what a launcher handles in this worker's place.
        taken = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in taken}
        wakeup = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        _listening = self
        try:
            yield
        finally:
            _listening = None
            signal.set_wakeup_fd(wakeup)
            for number, handler in self._before.items():
                signal.signal(number, handler)
            read, self._unseen = self._unseen, None
            os.close(read)
            os.close(written)

    def handler_before(self, number: int) -> Any:
        """Return what handled a signal before the run."""
        return self._before.get(number)

    def leave_child_alone(self) -> None:
        """In a process that was just forked: what it is sent is its own affair, and nothing of it is read here."""
        self._unseen = None
        signal.set_wakeup_fd(-1)  # what it writes there, the parent would take for its own signals
        if not _called_from(_LOADERS):
            for number in self._before:
                handler = self._handler_in_child(number)
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._read_unseen()
        if number in self._noted_early:
            self._noted_early.remove(number)  # the main thread has come back
            return
        if number == signal.SIGINT and self._asked_before():
            os._exit(130)
        self._note_request(signal.Signals(number).name)

    def _asked_before(self) -> bool:
        # One keypress can reach a worker directly and through its launcher.
        return self.signal_name is not None and self._asked.seconds > 0.5

    def _read_unseen(self) -> bytes:
        with contextlib.suppress(OSError):
            if self._unseen is not None:
                return os.read(self._unseen, 64)
        return b""

    def _note_request(self, by: str) -> None:
        if self.signal_name is None:
            self._asked.begin_again()
            self.signal_name = by


def _called_from(file: str) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.endswith(file):
        frame = frame.f_back
    return frame is not None


def _in_child() -> None:
    if _listening is not None:
        _listening.leave_child_alone()


os.register_at_fork(after_in_child=_in_child)
