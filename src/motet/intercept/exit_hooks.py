"""What a job registers with ``atexit`` runs when the job ends, as at the end of a process of its own.

Trackers finish their runs there, loggers write what they still hold; the process itself lives on for the other jobs,
and ends without asking anybody. What a library registers while it is being imported stays the process's: other jobs
may go on using that library. (A module that is a script's own registers for its script.) So does what ends a thing that
a library starts once for the whole process.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

from motet.errors import GangError
from motet.isolation.ownership import ONE_STATE, is_own_code, top_of
from motet.isolation.scripts import is_script
from motet.jobs.outcome import JobStopped
from motet.patching import Call

# Modules whose hooks end what all jobs of the process share. W&B's: the service to which the runs of all jobs write,
# started by whichever comes first.
_OF_THE_PROCESS = {"wandb.sdk.lib.service.service_connection"}


class ExitHooks:
    """The hooks of all jobs of this worker."""

    def __init__(self) -> None:
        self._of: dict[str, list[tuple[Call, tuple[Any, ...], dict[str, Any]]]] = {}

    def register(self, job: str, function: Call, /, *args: Any, **kwargs: Any) -> bool:
        """Remember a hook of ``job``; return False where it is not the job's but a library's."""
        if (_importing() and not _own_code_calls()) or getattr(function, "__module__", None) in _OF_THE_PROCESS:
            return False
        self._of.setdefault(job, []).append((function, args, kwargs))
        return True

    def unregister(self, job: str, function: Call) -> None:
        """Forget every hook of ``job`` that calls ``function``."""
        self._of[job] = [hook for hook in self._of.get(job, []) if hook[0] != function]

    def run(self, job: str) -> None:
        """Call what ``job`` registered, the last first. One that fails is shown, as Python does, and the next called.

        So is one that exits: how the job has ended is settled. What ends a job or the run from outside is raised.
        """
        while hooks := self._of.get(job):
            function, args, kwargs = hooks.pop()
            try:
                function(*args, **kwargs)
            except (JobStopped, GangError):
                raise
            except BaseException:
                sys.stderr.write(f"Exception ignored in atexit callback {function!r}:\n{traceback.format_exc()}")
        self.forget(job)

    def forget(self, job: str) -> None:
        """Forget all of ``job``'s."""
        self._of.pop(job, None)


def _own_code_calls() -> bool:
    """Return whether a module registers a hook that each script imports for itself."""
    if not is_script():
        return False
    frame = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if top_of(name) != "motet":
            return top_of(name) in ONE_STATE or is_own_code(frame.f_code.co_filename)
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _importing() -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
