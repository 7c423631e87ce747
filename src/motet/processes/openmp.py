"""Threads of OpenMP's, which a fork would not take along.

GNU's OpenMP keeps the threads of a parallel computation for the next one. In a process that was forked they are gone,
and it waits for them for ever; Intel's and LLVM's begin anew there by themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

from motet.errors import UsageError

_PAUSE_HARD = 2  # omp.h: omp_pause_hard
_MAPS = Path("/proc/self/maps")


def end_openmp_threads() -> None:
    """End the threads that OpenMP keeps for this thread: the next parallel computation starts as many, here or in a
    process that is forked. Raises `UsageError` where it cannot.
    """
    for library in _libraries():
        pause = getattr(library, "omp_pause_resource_all", None)
        if pause is None or pause(_PAUSE_HARD) != 0:
            raise UsageError(
                "a process for each job is forked, and what this program has computed on several threads (OpenMP) "
                "cannot be forked: call motet.run before, outside of parallel code, use motet run or motet.launch, or "
                "house='together'"
            )


def _libraries() -> list[ctypes.CDLL]:
    """Return GNU's OpenMP as it is loaded: once with torch, perhaps once more with another package."""
    found = []
    with contextlib.suppress(OSError):
        places = {line.split(maxsplit=5)[-1] for line in _MAPS.read_text().splitlines() if "libgomp" in line}
        for place in sorted(places):
            with contextlib.suppress(OSError):
                found.append(ctypes.CDLL(place))
    return found
