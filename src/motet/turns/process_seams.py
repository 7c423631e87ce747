"""What happens at the seams where a program uses what a process has one of: the profiler, threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from motet.isolation.ownership import is_own_code
from motet.turns.greenlets import Turns
from motet.turns.profilers import Profilers

Call = Callable[..., Any]

_THREAD = (
    "starts a thread: it goes on while other jobs have their turns, and finds their random generators, working directory, "
    "environment and streams then. What it draws differs from what it draws alone. Let it draw from generators of its own "
    "(random.Random, torch.Generator, numpy.random.default_rng), or run this job alone."
)
_STARTERS = (os.sep + "threading.py", os.path.join("concurrent", "futures", "thread.py"))


class ProcessSeams:
    """A part of `motet.job_seams.JobSeams`; ``notice`` tells the user something, once for each pair of arguments."""

    def __init__(self, turns: Turns, notice: Callable[[str, str], None]) -> None:
        self._turns = turns
        self._notice = notice
        self._profilers = Profilers()

    def profile(self, original: Call, disable: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Prepare, enable or disable torch's profiler, which one job has at a time."""
        job = self._turns.running_here()
        if job is None:
            return original(*args, **kwargs)
        return self._profilers.call(job, original, disable, *args, **kwargs)

    def start_thread(self, original: Call, thread: threading.Thread, /) -> None:
        """Start a thread, and tell the user what it shares if the job's own code starts it."""
        job = self._turns.running_here()
        if job is not None and _own_code_calls():
            self._notice(job.name, _THREAD)
        original(thread)

    def job_ends(self) -> None:
        """End what the present job has left on."""
        if (job := self._turns.running_here()) is not None:
            self._profilers.end(job)


def _own_code_calls() -> bool:
    """Tell whether a program's own code starts a thread, and not a library for purposes of its own."""
    frame = sys._getframe(3)  # of who called ``start``
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.endswith(_STARTERS):
            return is_own_code(file)
        frame = frame.f_back  # type: ignore[assignment]
    return False
