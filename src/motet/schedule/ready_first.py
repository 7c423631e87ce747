"""An order that is found by trying: in a replay, the ready job that is furthest behind its share has the next turn.

`motet.schedule.weights.spread` looks at how many turns each job gets, not at how long its gradients are in flight: a
job that sends much may come round again while they are, and every worker waits. A run must not decide by what is
ready, as that differs from worker to worker. The turns that a replay takes are the same everywhere, and so is a round
of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from motet.schedule.costs import Cost
from motet.schedule.order import Cursor, Order
from motet.schedule.simulator import Assumptions, Simulator, SimWorker
from motet.schedule.weights import begun_by, johnson

_LONGEST_ROUND = 128
"""Longer rounds are not tried: every worker waits while one is."""

_ROUNDS, _UNSETTLED = 6, 3
"""How many rounds are replayed, and how many of them pass before they are looked at. Nor is the end, where jobs run out
of turns."""


def ready_first(costs: Mapping[str, Cost], spread: Order, assumptions: Assumptions) -> Order | None:
    """Return a round that holds each job as often as ``spread`` does; None where the replay takes no such turns.

    None as well where a round is very long.
    Ties go to the job that comes first in ``spread``. Depends on the arguments alone.
    """
    length, weights = len(spread), spread.weights
    if length > _LONGEST_ROUND:
        return None
    turns = {name: _ROUNDS * weight for name, weight in weights.items()}
    steady = replace(assumptions, jitter=0.0, offload=None)
    sim = SimWorker(0, 1, Cursor(spread), dict(turns), steady)
    tried = _ReadyFirst([sim], costs, turns, steady, keep_spans=False)
    tried.run()
    for begin in range(_UNSETTLED * length, (_ROUNDS - 2) * length + 1):
        found = tried.taken[begin : begin + length]
        if Counter(found) == weights:
            return begun_by(found, johnson(costs))
    return None


class _ReadyFirst(Simulator):
    """A replay of one worker that has no order. ``taken``: the jobs that had the turns."""

    taken: list[str]

    def run(self, limit_seconds: float = float("inf")) -> bool:
        self.taken = []
        return super().run(limit_seconds)

    def _next_turn(self, number: int) -> None:
        """Begin the turn of the ready job that is furthest behind its share; wait for all where none is."""
        if self._num_computing:
            return
        sim = self._sims[number]
        for name in [name for name in sim.live if self._synced[name] == self._turns[name]]:
            sim.live.remove(name)
            self.finish[name] = self._time
        ready = [
            name for name in self._turns if sim.left[name] and self._synced[name] == self._turns[name] - sim.left[name]
        ]
        if not ready:
            for name in sim.live:
                if number not in self._waiting[name]:
                    self._waiting[name].append(number)
            return
        sim.job = max(ready, key=lambda name: sim.left[name] / self._turns[name])
        sim.turn = self._turns[sim.job] - sim.left[sim.job] + 1
        self.taken.append(sim.job)
        self._begin_turn(number)
