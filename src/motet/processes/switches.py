"""When another order begins that is followed to the letter: after the same turn on all workers (pure).

Workers take turns in one order, so none is more than a round ahead of worker 0: it would wait for gradients. What is
left is the time that a message takes, in which they go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable

MESSAGE_SECONDS = 0.25


class Switches:
    """``counted``: how many turns worker 0 has taken in all. ``clock``: seconds."""

    def __init__(self, counted: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
        self._counted = counted
        self._clock = clock
        self._last = 0  # after so many turns the latest order begins
        self._round = 0
        self._since = (clock(), counted())

    @property
    def possible(self) -> bool:
        """Whether all workers follow the latest order: an order that nobody has begun must not be lost."""
        return not self._last or self._counted() >= self._last + self._round

    def after(self, round_turns: int) -> int:
        """Return after how many turns an order of so many turns begins; 0 if no turn has been taken yet: at once."""
        now, counted = self._clock(), self._counted()
        begin, before = self._since
        pace = (counted - before) / max(now - begin, MESSAGE_SECONDS)
        self._since = now, counted
        if counted == 0 and not self._last:
            return 0
        longest = max(round_turns, self._round)
        self._last, self._round = counted + 2 * longest + round(pace * MESSAGE_SECONDS), longest
        return self._last
