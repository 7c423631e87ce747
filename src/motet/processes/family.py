"""A job's process and all that it has started, as Linux counts them: processor time, memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def family(pid: int) -> Iterator[int]:
    """Yield a process and those that it, or one of them, has started and that live."""
    yield pid
    with contextlib.suppress(OSError):
        for children in _PROC.glob(f"{pid}/task/*/children"):
            for child in children.read_text(encoding="ascii").split():
                yield from family(int(child))


def processor_seconds(pid: int) -> float:
    """Return for how long a family has computed: some have their children do the work. OSError if it has gone."""
    seconds = _clock(pid)
    for each in family(pid):
        if each != pid:
            with contextlib.suppress(OSError):
                seconds += _clock(each)
    return seconds


def memory_bytes(pid: int) -> int:
    """Return how much main memory a family takes; of what several processes share, each is charged its part (PSS)."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in (_PROC / str(each) / "smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total


def _clock(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) gives: any process's clock can be read
