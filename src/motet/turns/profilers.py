"""One job profiles at a time: torch has one profiler for the process, and a second one ends it (SIGSEGV)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from motet.errors import UnsupportedError
from motet.isolation import profiler
from motet.turns.greenlets import RunningJob

Call = Callable[..., Any]


class Profilers:
    """Who profiles: from the moment at which a job prepares its profiler (its warm-up) until it is off again."""

    def __init__(self) -> None:
        self._holder: RunningJob | None = None
        self._disable: Call | None = None

    def call(self, job: RunningJob, original: Call, disable: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Prepare, enable or disable the profiler for ``job``; ``disable`` is what disables one of this kind.

        Raises `UnsupportedError` where another profiles.
        """
        self._forget_ended()
        if self._holder is not job:
            self._refuse(job)
            self._holder, self._disable = job, disable
        if original is disable:
            self._holder = None
            profiler.ended()
            return original(*args, **kwargs)
        found = original(*args, **kwargs)
        if profiler.is_on():
            profiler.begun()
        return found

    def end(self, job: RunningJob) -> None:
        """End what ``job`` has left on, when it ends."""
        if self._holder is not job:
            return
        disable, self._holder = self._disable, None
        profiler.ended()
        if disable is not None and profiler.is_on():
            with contextlib.suppress(RuntimeError):
                disable()

    def _forget_ended(self) -> None:
        if self._holder is not None and self._holder.outcome is not None:  # it was left where it stood
            self.end(self._holder)

    def _refuse(self, job: RunningJob) -> None:
        if self._holder is not None:
            raise UnsupportedError(
                f"job '{job.name}': a profiler is to start, but job '{self._holder.name}' is profiling, and torch has "
                "one profiler for the process. Profile one job, or let them profile at different times (in "
                "torch.profiler.schedule, skip_first past the other's last step)."
            )
        if profiler.is_on():
            raise UnsupportedError(
                f"job '{job.name}': a profiler is to start, but the program that started this run is profiling, and "
                "torch has one profiler for the process. Leave out one of the two."
            )
