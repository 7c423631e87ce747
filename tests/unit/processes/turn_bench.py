"""A worker's table with its seats in threads of this process, for tests: who waits, who has the turn."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from motet.processes.turn_table import READY, Seat, Table

LONGEST_SECONDS = 30.0


class Bench:
    """A table of so many seats, all of them open, in the order of their numbers."""

    def __init__(self, num_seats: int, *, strict: bool = False) -> None:
        self.wake = tuple(os.eventfd(0) for _ in range(num_seats))
        self.table = Table(num_seats, strict=strict)
        for seat in range(num_seats):
            self.table.open_seat(seat)
        self.seats = [Seat(self.table, seat, self.wake) for seat in range(num_seats)]
        self.follow(range(num_seats))
        self._waiting: dict[int, threading.Thread] = {}

    def follow(self, order: Sequence[int]) -> None:
        """Follow an order."""
        self.order = list(order)
        self.table.follow(list(order), self.wake)

    @property
    def holder(self) -> int:
        """Whose turn it is."""
        return self.table.holder()[0]

    def asks(self, seat: int) -> None:
        """Have a seat ask for the turn in a thread, and return when it stands at the table or has the turn."""
        thread = self._waiting[seat] = threading.Thread(target=self.seats[seat].acquire, daemon=True)
        thread.start()
        self.until(lambda: self.table.state(seat) == READY or not thread.is_alive())

    def has_come(self, seat: int) -> None:
        """Wait until a seat that asked has the turn, and knows."""
        thread = self._waiting.pop(seat)
        thread.join(LONGEST_SECONDS)
        assert not thread.is_alive(), f"seat {seat} was never woken; the turn is {self.holder}'s"
        assert self.holder == seat

    def knows(self, seat: int) -> None:
        """Wait until the seat that has the turn knows."""
        if seat in self._waiting:
            self.has_come(seat)

    def takes(self, seat: int) -> None:
        """Have a seat ask for the turn and get it."""
        self.asks(seat)
        self.has_come(seat)

    def gives(self, seat: int) -> None:
        """Have a seat end a turn of the order, and give it away."""
        self.seats[seat].release(synchronizes=True)

    @staticmethod
    def until(condition: object) -> None:
        """Wait until something is so."""
        assert callable(condition)
        deadline = time.monotonic() + LONGEST_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0)

    def close(self) -> None:
        """Close the files; what waits still is let go of."""
        for seat in list(self._waiting):
            self.table._words[0] = seat  # whoever waits finds that it is its turn
            os.eventfd_write(self.wake[seat], 1)
            self._waiting.pop(seat).join(LONGEST_SECONDS)
        for file in self.wake:
            os.close(file)
        os.close(self.table.fd)


@contextmanager
def bench(num_seats: int, *, strict: bool = False) -> Iterator[Bench]:
    """Yield a bench, and close it."""
    made = Bench(num_seats, strict=strict)
    try:
        yield made
    finally:
        made.close()
