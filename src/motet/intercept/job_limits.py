"""What jobs ask the system to allow them: open files, memory, the size of a core dump.

A process has one set of limits, for all of its jobs. What a job raises is raised for all of them, which harms nobody.
What it lowers would hit the others, and the job itself sooner than alone, for the process holds what all of them hold:
so that stays as it is, the job finds what it has set, and the user is notified.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Sequence

from motet.coroutines import Turns
from motet.patching import Call

_getrlimit = resource.getrlimit
_NAMES = {getattr(resource, name): name for name in reversed(dir(resource)) if name.startswith("RLIMIT_")}
_STAYS = (
    "lowers {name} to {soft}: a process has one such limit for all of its jobs, so it stays as it is. With --house "
    "process each job has a process of its own, and limits of its own."
)


class JobLimits:
    """Who has set which limit. ``notice`` notifies the user of something, once for each pair of arguments."""

    def __init__(self, turns: Turns, notice: Callable[[str, str], None]) -> None:
        self._turns = turns
        self._notice = notice
        self._set: dict[str, dict[int, tuple[int, int]]] = {}  # by job, and by limit

    def set(self, original: Call, which: int, limits: Sequence[int]) -> None:
        """Do for a job what ``resource.setrlimit`` does, but for lowering a limit."""
        job = self._turns.running_here()
        if job is None or which not in _NAMES or not _are_sound(limits):
            original(which, limits)
            return
        soft, hard = limits
        allowed = tuple(max(asked, now, key=_height) for asked, now in zip(limits, _getrlimit(which), strict=True))
        original(which, allowed)
        self._set.setdefault(job.name, {})[which] = (soft, hard)
        if allowed[0] != soft:
            self._notice(job.name, _STAYS.format(name=_NAMES[which], soft=soft))

    def get(self, original: Call, which: int) -> tuple[int, int]:
        """Return what a job has set, if it has, otherwise what holds."""
        job = self._turns.running_here()
        found = None if job is None else self._set.get(job.name, {}).get(which)
        return original(which) if found is None else found

    def forget(self, job: str) -> None:
        """Forget a job that has ended."""
        self._set.pop(job, None)


def _are_sound(limits: object) -> bool:
    """Whether the system would look at them; otherwise ``setrlimit`` raises what it raises alone."""
    if not isinstance(limits, Sequence) or len(limits) != 2 or not all(isinstance(limit, int) for limit in limits):
        return False
    return _height(limits[0]) <= _height(limits[1])


def _height(limit: int) -> float:
    return math.inf if limit == resource.RLIM_INFINITY else limit
