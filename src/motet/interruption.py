"""Ctrl-C and SIGTERM during a run: the first asks all workers to stop together, the second ends this one at once."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from motet.errors import GangError

GRACE_SECONDS = 20.0


class Interruption:
    """Whether somebody asked this run to stop. A signal handler only takes note; the pipeline acts on it."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._since = 0.0

    @property
    def requested(self) -> bool:
        """Whether this worker was asked to stop."""
        return self.signal_name is not None

    def hopeless(self) -> GangError | None:
        """Return an error once the other workers have not come along for too long, else None."""
        if self.requested and time.monotonic() - self._since > GRACE_SECONDS:
            return GangError(
                f"{self.signal_name}: the workers could not agree within {GRACE_SECONDS:.0f} s on a turn to stop at"
            )
        return None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals for the duration of the block; only a main thread can, elsewhere nothing is taken."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT and time.monotonic() - self._since > 0.5:
            os._exit(130)  # asked twice: at once (one keypress can reach a worker directly and through its launcher)
        if not self.requested:
            self.signal_name, self._since = signal.Signals(number).name, time.monotonic()
