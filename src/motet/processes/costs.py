"""The order that follows from what the jobs' turns cost, when jobs live in processes of their own (pure).

Worker 0 hears the costs of all workers now and then. The slowest worker's computing is the gang's, because all wait for
it; of a synchronization the shortest travel counts, which is that of the worker that began last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from motet.schedule.order import Cost, Order, round_robin
from motet.schedule.replanner import DRIFT, Change, drift, remaining_turns
from motet.schedule.replay import best_order


class Costing:
    """What worker 0 knows of costs, and the order that follows from it. ``given``: the user's order, kept to."""

    def __init__(self, given: Order | None, names: Sequence[str]) -> None:
        self._given = given
        self.order = given or round_robin(names)
        self._heard: dict[int, Mapping[str, Sequence[float]]] = {}
        self._costs: dict[str, Cost] = {}
        self._drifted = False
        self._because = ""  # what has changed since the order was made, other than costs

    def heard(self, worker: int, figures: Mapping[str, Sequence[float]]) -> None:
        """Take note of what a worker measured: compute seconds, sync seconds and bytes of each job's turns."""
        self._heard[worker] = figures

    def joined(self, job: str, live: Sequence[str]) -> Change | None:
        """Return the order now that a job has joined: a round robin, until its costs are known."""
        if self._given is not None and job in self._given.names:
            return None
        self._because = ""
        self.order = round_robin([*(name for name in live if name != job), job])
        return Change(self.order, f"job '{job}' joined")

    def ended(self, job: str) -> None:
        """Forget a job; what the others cost makes another order, perhaps."""
        self._costs = {}
        self._because = f"job '{job}' ended"
        self._heard = {w: {name: f for name, f in told.items() if name != job} for w, told in self._heard.items()}

    def change(self, turns: Mapping[str, int], expected: Mapping[str, int | None], num_workers: int) -> Change | None:
        """Return another order if costs ask for one. ``turns``: the live jobs', so far."""
        if self._given is not None or len(turns) < 2 or len(self._heard) < num_workers:
            return None
        now = {}
        for name in turns:
            of_job = [told[name] for told in self._heard.values() if name in told]
            if len(of_job) < num_workers:
                return None
            compute, sync = max(each[0] for each in of_job), min(each[1] for each in of_job)
            now[name] = Cost(max(compute, 0.0), max(sync, 0.0), round(max(each[2] for each in of_job)))
        if set(now) == set(self._costs):
            worst = max(now, key=lambda name: drift(self._costs[name], now[name]))
            if drift(self._costs[worst], now[worst]) <= DRIFT:
                self._drifted = False
                return None
            if not self._drifted:
                self._drifted = True
                return None
            reason = f"the costs of job '{worst}' changed"
        else:
            reason = self._because or "the costs of the jobs are known"
        self._costs, self._drifted, self._because = now, False, ""
        best = best_order(now, remaining_turns(expected, turns), current=self.order)
        if best == self.order:
            return None
        self.order = best
        return Change(best, reason)
