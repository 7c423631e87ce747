"""A job that has the turn and waits where nothing sees it: the turn is taken from it, so that others go on.

The sign is a main thread that uses no processor. One that waits while other threads of its process are busy (autograd's
on a device, a pool) is given longer; and whoever has not come by for `LONGEST_SECONDS` while others are ready is not
waited for any more, whatever it does. That is what makes sure that every job always goes on: nothing here can be wrong
but for speed, as jobs share no process group.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

from motet.processes.turn_table import NOBODY, Table

IDLE_SECONDS, BUSY_SECONDS, LONGEST_SECONDS = 0.02, 0.5, 10.0
"""How long a holder may use no processor; how long, if other threads of its process do; how long it may hold at all."""
MANY_TURNS, PART_OF_TURNS = 10, 0.1
"""So many turns that a job lost, and such a part of all, are often."""
USES_NONE = 0.05
"""Below this part of the time, a thread counts as using no processor."""


class Unseen:
    """Looks, now and then, whether the holder of the turn computes. ``pids``: processes by seat."""

    def __init__(self, table: Table, wake: Sequence[int], pid: Callable[[int], int | None]) -> None:
        self._table = table
        self._wake = wake
        self._pid = pid
        self._seen = (NOBODY, 0)
        self._looked: tuple[int, int, float, float, float] | None = None  # seat, handovers, when, main, process

    def look(self) -> int | None:
        """Take the turn from its holder if that waits unseen; return its seat then.

        An order that is to be followed to the letter is left only where nothing else can help.
        """
        idle_seconds, busy_seconds = (LONGEST_SECONDS,) * 2 if self._table.strict else (IDLE_SECONDS, BUSY_SECONDS)
        holder, handovers, since = self._table.holder()
        last, self._seen = self._seen, (holder, handovers)
        if last != self._seen:  # the turn has changed hands since the last look: nobody waits for long
            self._looked = None
            return None
        now = time.perf_counter()
        if holder == NOBODY and now - since / 1e9 > busy_seconds and self._table.any_ready():
            self._table.pass_over(self._wake)  # a strict order waits for a job that may wait for one of these
        pid = None if holder == NOBODY else self._pid(holder)
        if pid is None or not self._table.any_ready():
            self._looked = None
            return None
        with contextlib.suppress(OSError, ValueError):
            main, whole = _thread_seconds(pid), _process_seconds(pid)
            before = self._looked
            if before is None or before[:2] != (holder, handovers):
                self._looked = (holder, handovers, now, main, whole)
                return None
            seconds = now - before[2]
            idle = (main - before[3]) < USES_NONE * seconds and not _is_ready(pid)
            busy_elsewhere = (whole - before[4]) >= USES_NONE * seconds
            held = now - since / 1e9
            if (idle and seconds >= (busy_seconds if busy_elsewhere else idle_seconds)) or held > LONGEST_SECONDS:
                self._looked = None
                return holder if self._table.take_away(holder, self._wake) else None
            if not idle:
                self._looked = (holder, handovers, now, main, whole)
        return None


class Losses:
    """Which jobs lose their turn unseen so often that their authors should know: each is named once.

    One that saves, downloads or compiles now and then loses next to nothing, and could do nothing about it.
    """

    def __init__(self) -> None:
        self._turns: dict[str, set[int]] = {}
        self._named: set[str] = set()

    def lost(self, job: str, turn: int) -> bool:
        """Take note that a job lost its turn, after so many synchronized ones; return whether to notify of it now."""
        turns = self._turns.setdefault(job, set())
        turns.add(turn)
        if turn == 0 or job in self._named or len(turns) < max(MANY_TURNS, PART_OF_TURNS * turn):
            return False
        self._named.add(job)
        return True


def _thread_seconds(pid: int) -> float:
    """Return for how long a process's main thread has run, or been ready to run where processors are short."""
    with open(f"/proc/{pid}/task/{pid}/schedstat", encoding="ascii") as file:
        ran, was_ready, _ = file.read().split()
    return (int(ran) + int(was_ready)) / 1e9


def _is_ready(pid: int) -> bool:
    """Whether a process's main thread runs or would run: its time in the queue counts only once it has left that."""
    with open(f"/proc/{pid}/task/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "R"


def _process_seconds(pid: int) -> float:
    return time.clock_gettime((~pid << 3) | 2)  # what clock_getcpuclockid(3) gives: any process's clock can be read
