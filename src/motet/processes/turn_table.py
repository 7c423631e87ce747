"""Whose turn it is among the job processes of one worker: a small table in memory that all of them share.

One job of a worker computes at a time. A job that begins to wait gives its turn away (`Seat.release`), and takes one
again (`Seat.acquire`) when what it waited for is there and it is the first, among the jobs that are ready, in the
determined order. No process stands in between: whoever releases picks the next job and wakes it, with one write.

The rules. The table is read and written under a lock that the kernel frees when its holder dies. `_HOLDER` is the seat
whose turn it is, or nobody's. A seat that is waited for is woken through its own eventfd; a wake-up too many harms
nothing, as the sleeper looks at the table again. Ready jobs come in the order of what they have had: the one that is
furthest behind its share (turns taken, over turns of a round) is first, and of equals the one that comes first in the
order. With ``strict`` the order is followed to the letter: a job that is not ready is waited for, and another order
begins after the same turn on all workers (`Table.follow`).

Correctness never rests on the order: jobs share no process group. So the turn may be taken from a holder that waits
unseen (`Table.take_away`, `motet.processes.unseen`): it goes on, and queues again when it next comes by.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

FREE, COMPUTING, WAITING, READY = range(4)
"""What a seat is: nobody's; a job's that computes; one that waits for something else; one that waits for its turn."""
NOBODY = -1
MAX_SEATS = 256
MAX_ORDER = 4096
RING = 4096
"""So many of its latest stretches a job keeps for its worker to read."""

# The head, in 8-byte words.
_HOLDER, _HANDOVERS, _STRICT, _CURSOR, _ORDER_LENGTH, _HELD_SINCE, _COUNTED, _SWITCH_AT, _NEXT_LENGTH = range(9)
_HEAD = 16
# Each seat.
_STATE, _TURNS, _PER_ROUND, _HAD, _STOP_REQUEST, _WRITTEN, _TAKEN_AT, _PLACE = range(8)
_SEAT = 16
# Each stretch of a ring: see `Stretch`.
_STRETCH = 10
_FIELDS = struct.Struct("8q")


class Stretch(NamedTuple):
    """What a job reports to its worker, in ``perf_counter`` nanoseconds: it held the turn from ``begin`` to ``end``.

    Or, if ``synchronized``, that the gradients of its turn number ``turn`` have come: they left from ``launched`` on,
    the job had nothing else to do from ``end`` on, and they were there at ``arrived``. ``num_bytes`` of them
    were in flight; ``backward`` is when the turn's backward began.
    """

    begin: int
    end: int
    arrived: int
    turn: int
    synchronized: int
    launched: int = 0
    num_bytes: int = 0
    backward: int = 0


class Table:
    """The table of one worker, as the worker sees it. ``fd``: the file in memory behind it, for those who join it."""

    def __init__(self, num_seats: int, *, strict: bool = False, fd: int | None = None) -> None:
        if not 1 <= num_seats <= MAX_SEATS:
            raise ValueError(f"a worker has 1 to {MAX_SEATS} seats, not {num_seats}")
        self.num_seats = num_seats
        self._next_order = _HEAD + MAX_ORDER + num_seats * (_SEAT + RING * _STRETCH)
        words = self._next_order + MAX_ORDER
        made = fd is None
        self.fd = os.memfd_create("motet-turns") if fd is None else fd
        if made:
            os.ftruncate(self.fd, 8 * words)
        self._memory = mmap.mmap(self.fd, 8 * words)
        self._words = memoryview(self._memory).cast("q")
        self._mutex = threading.Lock()
        self._ats = tuple(_HEAD + MAX_ORDER + seat * (_SEAT + RING * _STRETCH) for seat in range(num_seats))
        if made:
            self._words[_HOLDER], self._words[_STRICT] = NOBODY, strict

    @contextlib.contextmanager
    def _locked(self) -> Iterator[memoryview]:
        """Hold the table: against other processes by the file's lock, against other threads of this one by a mutex.

        A generator, for a signal's handler may raise anywhere: wherever that is, the generator is let go of then, and
        frees both. A class with ``__exit__`` is left before its first line.
        """
        with self._mutex:
            try:
                fcntl.lockf(self.fd, fcntl.LOCK_EX)
                yield self._words
            finally:
                fcntl.lockf(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file: nobody looks at the table any more."""
        os.close(self.fd)

    # What the worker does

    def open_seat(self, seat: int, per_round: int = 1) -> None:
        """Give a seat to a job: it starts level with the one that is furthest behind."""
        with self._locked() as words:
            had = [self._had(words, other) for other in range(self.num_seats) if self._taken(words, other)]
            at = self._at(seat)
            for field in range(_SEAT):
                words[at + field] = 0
            words[at + _STATE], words[at + _PER_ROUND] = WAITING, per_round
            words[at + _HAD] = round(min(had, default=0.0) * per_round)
            words[at + _PLACE] = MAX_ORDER

    def close_seat(self, seat: int, wake: Sequence[int]) -> None:
        """Take a seat back: its job's process is gone. If it had the turn, the next one has it. ``wake``: eventfds."""
        with self._locked() as words:
            words[self._at(seat) + _STATE] = FREE
            if words[_HOLDER] == seat:
                self._give(words, self._next(words))
            self._start_someone(words, wake)  # a strict order may have waited for this one
            holder = words[_HOLDER]
        # Whoever died may have given the turn to a job and not lived to wake it.
        if holder != NOBODY:
            os.eventfd_write(wake[holder], 1)

    def follow(self, order: Sequence[int], wake: Sequence[int], after: int = 0) -> None:
        """From now on follow an order, a sequence of seats: those who come more often in it get more turns.

        One that is followed to the letter begins ``after`` so many turns in all (`counted`), if these are to come.
        """
        assert len(order) <= MAX_ORDER
        with self._locked() as words:
            if words[_STRICT] and after > words[_COUNTED]:
                words[_SWITCH_AT], words[_NEXT_LENGTH] = after, len(order)
                for place, seat in enumerate(order):
                    words[self._next_order + place] = seat
                return
            self._begin_order(words, order)
            self._start_someone(words, wake)

    @property
    def strict(self) -> bool:
        """Whether the order is followed to the letter."""
        return bool(self._words[_STRICT])

    @property
    def counted(self) -> int:
        """How many turns of orders that are followed to the letter have been taken."""
        return self._words[_COUNTED]

    def take_away(self, seat: int, wake: Sequence[int]) -> bool:
        """Take the turn from a holder that waits unseen, and give it to the next; return whether it had it."""
        with self._locked() as words:
            if words[_HOLDER] != seat:
                return False
            chosen = self._next(words, but=seat)
            if chosen == NOBODY:  # a strict order waits for one that may wait for whoever is ready
                chosen = self._furthest_behind(words, but=seat)
            if chosen == NOBODY:
                return False
            at = self._at(seat)
            words[at + _STATE] = COMPUTING
            self._give(words, chosen)
            words[at + _TAKEN_AT] = words[_HELD_SINCE]
        os.eventfd_write(wake[chosen], 1)
        return True

    def pass_over(self, wake: Sequence[int]) -> bool:
        """Give a turn that is nobody's to a ready job, whatever a strict order says; return whether there was one.

        Workers whose strict orders are out of step may wait for each other's jobs in a cycle; this ends it.
        """
        with self._locked() as words:
            if words[_HOLDER] != NOBODY or (chosen := self._furthest_behind(words)) == NOBODY:
                return False
            self._give(words, chosen)
        os.eventfd_write(wake[chosen], 1)
        return True

    def request_stop(self, seat: int, request: int) -> None:
        """Ask the job of a seat to stop, or no longer to (`Seat.stop_request`)."""
        self._words[self._at(seat) + _STOP_REQUEST] = request

    def holder(self) -> tuple[int, int, int]:
        """Return whose turn it is, how often the turn has changed hands, and since when (nanoseconds)."""
        words = self._words
        return words[_HOLDER], words[_HANDOVERS], words[_HELD_SINCE]

    def state(self, seat: int) -> int:
        """Return what the seat is: `FREE`, `COMPUTING`, `WAITING` or `READY`."""
        return self._words[self._at(seat) + _STATE]

    def turns(self, seat: int) -> int:
        """Return how many synchronized turns the job of a seat has behind it."""
        return self._words[self._at(seat) + _TURNS]

    def any_ready(self) -> bool:
        """Whether a job waits for its turn."""
        return any(self.state(seat) == READY for seat in range(self.num_seats))

    def written(self, seat: int) -> int:
        """Return how many stretches the job of a seat has written."""
        return self._words[self._at(seat) + _WRITTEN]

    def stretches(self, seat: int, after: int) -> tuple[int, list[Stretch]]:
        """Return how many stretches the job has written by now, and those after the first ``after``.

        A reader that is late finds the last `RING` of them.
        """
        at = self._at(seat)
        written = self._words[at + _WRITTEN]
        numbers = range(max(after, written - RING + 1), written)
        found = [Stretch._make(_FIELDS.unpack_from(self._memory, 8 * _place(at, number))) for number in numbers]
        return written, found

    # Under the lock

    def _at(self, seat: int) -> int:
        return self._ats[seat]

    def _taken(self, words: memoryview, seat: int) -> bool:
        return bool(words[self._at(seat) + _STATE] != FREE)

    def _had(self, words: memoryview, seat: int) -> float:
        at = self._at(seat)
        return float(words[at + _HAD] / max(words[at + _PER_ROUND], 1))

    def _next(self, words: memoryview, but: int = NOBODY) -> int:
        """Return whose turn is next among those that are ready; nobody's if none is."""
        if words[_STRICT] and (length := words[_ORDER_LENGTH]):
            for _ in range(length):
                seat = words[_HEAD + words[_CURSOR]]
                state = words[self._at(seat) + _STATE]
                if state == READY and seat != but:
                    return int(seat)
                if state != FREE and seat != but:
                    return NOBODY
                words[_CURSOR] = (words[_CURSOR] + 1) % length
        return self._furthest_behind(words, but)

    def _furthest_behind(self, words: memoryview, but: int = NOBODY) -> int:
        best, least, place = NOBODY, 0.0, 0
        for seat, at in enumerate(self._ats):
            if words[at + _STATE] == READY and seat != but:
                had = words[at + _HAD] / (words[at + _PER_ROUND] or 1)
                if best == NOBODY or had < least or (had == least and words[at + _PLACE] < place):
                    best, least, place = seat, had, words[at + _PLACE]
        return best

    def _give(self, words: memoryview, seat: int) -> None:
        words[_HOLDER] = seat
        words[_HANDOVERS] += 1
        words[_HELD_SINCE] = time.perf_counter_ns()
        if seat == NOBODY:
            return
        words[self._at(seat) + _STATE] = COMPUTING

    def _count(self, words: memoryview, seat: int) -> None:
        """A turn of the order is used up: not by each stretch, but by what ends with a synchronization."""
        words[self._at(seat) + _HAD] += 1
        if words[_STRICT] and words[_ORDER_LENGTH]:
            words[_CURSOR] = (words[_CURSOR] + 1) % words[_ORDER_LENGTH]
            words[_COUNTED] += 1
            if words[_SWITCH_AT] and words[_COUNTED] >= words[_SWITCH_AT]:
                order = [words[self._next_order + place] for place in range(words[_NEXT_LENGTH])]
                self._begin_order(words, order)

    def _begin_order(self, words: memoryview, order: Sequence[int]) -> None:
        words[_SWITCH_AT] = 0
        behind = min((self._had(words, seat) for seat in set(order)), default=0.0)
        words[_ORDER_LENGTH], words[_CURSOR] = len(order), 0
        for place, seat in enumerate(order):
            words[_HEAD + place] = seat
        for seat in set(order):
            at, times = self._at(seat), order.count(seat)
            ahead = min(self._had(words, seat) - behind, 1.0)  # what it had under the old order counts little
            words[at + _PER_ROUND], words[at + _PLACE] = times, order.index(seat)
            words[at + _HAD] = round(max(ahead, 0.0) * times)

    def _start_someone(self, words: memoryview, wake: Sequence[int]) -> None:
        if words[_HOLDER] == NOBODY and (chosen := self._next(words)) != NOBODY:
            self._give(words, chosen)
            os.eventfd_write(wake[chosen], 1)


class Seat:
    """One job's place at the table, in its own process. ``wake``: the eventfds of all seats, in their order."""

    def __init__(self, table: Table, seat: int, wake: Sequence[int]) -> None:
        self._table = table
        self._seat = seat
        self._at = table._at(seat)
        self._wake = wake
        self._begin = 0
        self.waits = False
        """Whether the turn is given away now, as far as this process knows."""

    def acquire(self) -> None:
        """Block until it is this job's turn; nothing to do where it is already."""
        table, seat = self._table, self._seat
        while True:
            with table._locked() as words:
                if words[_HOLDER] != seat:
                    # Each time anew: the turn may have been taken away before this process came to see that it had it.
                    words[self._at + _STATE] = READY
                    if words[_HOLDER] == NOBODY and (chosen := table._next(words)) != NOBODY:
                        table._give(words, chosen)
                        if chosen != seat:
                            os.eventfd_write(self._wake[chosen], 1)
                if words[_HOLDER] == seat:
                    break
            os.read(self._wake[seat], 8)  # eventfd_read ends where a signal comes
        self.waits = False
        self._begin = time.perf_counter_ns()

    def release(self, *, synchronizes: bool = False) -> int:
        """Give the turn away, if this job has it; return since when it has not.

        ``synchronizes``: a turn of the order ends. A turn that was taken away counts until then: whatever the job
        computed afterwards, it did beside others.
        """
        table, seat = self._table, self._seat
        now = time.perf_counter_ns()
        with table._locked() as words:
            words[self._at + _STATE] = WAITING
            if synchronizes:
                table._count(words, seat)
            if words[_HOLDER] == seat:
                chosen = table._next(words)
                table._give(words, chosen)
                if chosen != NOBODY:
                    os.eventfd_write(self._wake[chosen], 1)
            else:
                taken_at = words[self._at + _TAKEN_AT]
                now = taken_at if self._begin < taken_at < now else now
        self.waits = True
        return now

    def count(self) -> int:
        """Take note that a turn of the order has ended, and keep the turn; return the moment.

        If the turn was taken away meanwhile, until when this job had it.
        """
        now = time.perf_counter_ns()
        with self._table._locked() as words:
            self._table._count(words, self._seat)
            if words[_HOLDER] != self._seat and self._begin < words[self._at + _TAKEN_AT] < now:
                return int(words[self._at + _TAKEN_AT])
        return now

    @property
    def begin(self) -> int:
        """Since when this job has had its turn, in ``perf_counter`` nanoseconds."""
        return self._begin

    @property
    def stop_request(self) -> int:
        """What the worker asks of this job: `GO_ON`, `STOP` or `STOP_NOW` of `motet.workers.messages`."""
        return int(self._table._words[self._at + _STOP_REQUEST])

    def write(self, stretch: Stretch) -> None:
        """Keep a stretch for the worker to read."""
        words, at = self._table._words, self._at
        number = words[at + _WRITTEN]
        _FIELDS.pack_into(self._table._memory, 8 * _place(at, number), *stretch)
        words[at + _TURNS] = stretch.turn
        words[at + _WRITTEN] = number + 1


def _place(at: int, number: int) -> int:
    """Return the word at which a seat's stretch begins."""
    return at + _SEAT + (number % RING) * _STRETCH
