"""The order that follows from what the jobs' turns cost, when jobs live in processes of their own (pure).

Worker 0 receives the costs of all workers now and then. The slowest worker's computing is the gang's, because all wait
for it; of a synchronization the shortest time in flight counts, which is that of the worker that began last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from motet.processes.messages import ProgressReport
from motet.schedule.costs import Cost
from motet.schedule.order import Order, round_robin
from motet.schedule.replanner import DRIFT, Change, drift, remaining_turns
from motet.schedule.replay import best_order


class Costing:
    """What worker 0 knows of costs, and the order that follows from it.

    ``given``: the user's order, kept to. ``known``: what turns cost in an earlier run, and then in this one.
    """

    def __init__(self, given: Order | None, names: Sequence[str], known: Mapping[str, Cost] | None = None) -> None:
        self._given = given
        self.known = dict(known or {})
        self.order = given or round_robin(names)
        self._reports: dict[int, dict[str, Cost]] = {}
        self._costs: dict[str, Cost] = {}
        self._provisional = False  # these were not measured, or by others than this run's jobs
        self._drifted = False
        self._because = ""  # what has changed since the order was made, other than costs

    def receive(self, worker: int, report: ProgressReport) -> None:
        """Take note of what a worker measured."""
        self._reports[worker] = {name: _cost(report, name) for name in report.compute_seconds}

    def joined(self, job: str, live: Sequence[str]) -> Change | None:
        """Return the order now that a job has joined: a round robin, until its costs are known."""
        if self._given is not None and job in self._given.names:
            return None
        self._because = ""
        self.order = round_robin([*(name for name in live if name != job), job])
        return Change(self.order, f"job '{job}' joined")

    def begin(self, turns: Mapping[str, int], expected: Mapping[str, int | None]) -> None:
        """Make an order of what is known, if that is so of all live jobs; it is put right when they were measured."""
        if self._given is None and len(turns) > 1 and self.known.keys() >= turns.keys():
            self._costs, self._provisional = {name: self.known[name] for name in turns}, True
            self.order = best_order(self._costs, remaining_turns(expected, turns), current=self.order)

    def ended(self, job: str) -> None:
        """Forget a job; what the others cost makes another order, perhaps."""
        self._costs = {}
        self._because = f"job '{job}' ended"
        for of_worker in self._reports.values():
            of_worker.pop(job, None)

    def change(self, turns: Mapping[str, int], expected: Mapping[str, int | None], num_workers: int) -> Change | None:
        """Return another order if costs ask for one. ``turns``: the live jobs', so far."""
        if self._given is not None or len(turns) < 2 or len(self._reports) < num_workers:
            return None
        now = {}
        for name in turns:
            of_job = [of_worker[name] for of_worker in self._reports.values() if name in of_worker]
            if len(of_job) < num_workers:
                return None
            compute = max(cost.compute_seconds for cost in of_job)
            sync = min(cost.sync_seconds for cost in of_job)
            now[name] = Cost(compute, sync, max(cost.sync_bytes for cost in of_job))
        self.known.update(now)
        if set(now) == set(self._costs) and not self._provisional:
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
        self._costs, self._provisional, self._drifted, self._because = now, False, False, ""
        best = best_order(now, remaining_turns(expected, turns), current=self.order)
        if best == self.order:
            return None
        self.order = best
        return Change(best, reason)


def _cost(report: ProgressReport, name: str) -> Cost:
    compute, sync = report.compute_seconds[name], report.sync_seconds[name]
    return Cost(max(compute, 0.0), max(sync, 0.0), report.num_bytes[name])
