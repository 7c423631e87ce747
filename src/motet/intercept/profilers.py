"""One job profiles at a time: torch has one profiler for the process, and a second one ends it (SIGSEGV).

Another job that begins to profile meanwhile gets an empty profile, and the user is notified. It is not refused: scripts
often profile on worker 0 alone, and an error of one worker would end the run.
"""

from __future__ import annotations

import contextlib
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.autograd import profiler as autograd_profiler
from torch.autograd import profiler_legacy

from motet.coroutines import RunningJob
from motet.errors import UnsupportedError
from motet.isolation import profiler
from motet.patching import Call


class NoProfile:
    """What torch finds where a profile was not taken, in place of its `_ProfilerResult`."""

    def __bool__(self) -> bool:
        return False

    def events(self) -> list[Any]:
        """Return no events."""
        return []

    def experimental_event_tree(self) -> list[Any]:
        """Return no events."""
        return []

    def trace_start_ns(self) -> int:
        """Return the beginning of no trace."""
        return 0

    def save(self, path: str) -> None:
        """Write a trace without events."""
        Path(path).write_text(json.dumps({"traceEvents": []}), encoding="utf-8")


class Profilers:
    """Who profiles: from the moment at which a job prepares its profiler (its warm-up) until it is off again.

    ``notice`` notifies the user of something about a job, once. Made before anything is patched: ``disable`` is torch's
    own.
    """

    def __init__(self, notice: Callable[[str, str], None]) -> None:
        self._notice = notice
        self.disable: Call = vars(autograd_profiler)["_disable_profiler"]
        self.disable_legacy: Call = vars(profiler_legacy)["_disable_profiler_legacy"]
        self._holder: RunningJob | None = None
        self._disable: Call | None = None
        self._without: weakref.WeakSet[RunningJob] = weakref.WeakSet()  # who has begun an empty profile

    def call(self, job: RunningJob, original: Call, disable: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Prepare, enable or disable the profiler for ``job``; ``disable`` is what disables one of this kind.

        Raises `UnsupportedError` where another profiles and this one is torch's legacy profiler.
        """
        self._forget_ended()
        if self._holder is not job:
            if job in self._without or self._taken():
                return self._go_without(job, original, disable)
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

    def _taken(self) -> bool:
        return self._holder is not None or profiler.is_on()

    def _go_without(self, job: RunningJob, original: Call, disable: Call) -> NoProfile | None:
        """Do nothing, from here until the profiler is disabled, whoever profiles by then."""
        if original is disable:
            self._without.discard(job)
            return NoProfile()
        who = "the program that started this run" if self._holder is None else f"job '{self._holder.name}'"
        remedy = (
            "Profile one job, or let them profile at different times (in torch.profiler.schedule, skip_first past the "
            "other's last step)."
        )
        if getattr(disable, "__name__", "") == "_disable_profiler_legacy":  # it makes something of what it finds
            raise UnsupportedError(
                f"job '{job.name}': a profiler is to start, but {who} is profiling, and torch has one profiler for the "
                f"process. {remedy}"
            )
        if job not in self._without:
            self._without.add(job)
            self._notice(
                job.name,
                f"has an empty profile: {who} is profiling, and torch has one profiler for the process. {remedy}",
            )
        return None
