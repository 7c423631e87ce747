"""Worker 0's part of a run whose jobs live in processes of their own: it decides, and tells all workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from motet.processes.costs import Costing
from motet.processes.ends import End, Verdict, judge
from motet.processes.exchange import Exchange
from motet.processes.messages import STOP_NOW
from motet.schedule.order import Order
from motet.tracebacks import short_form

SAME_ERROR_SECONDS = 2.0
"""So long after a process has failed may the job's others still meet the same error, before they are ended."""


@dataclass
class _Running:
    """A job that runs: its seat, the number of its processes so far, how they ended, and when the first one did."""

    name: str
    seat: int
    attempt: int
    turns: int = 0
    expected: int | None = None
    ends: dict[int, End] = field(default_factory=dict)
    first_end_at: float = 0.0
    told_to_end: bool = False
    doomed: str | None = None


class Decider:
    """Decides which jobs run, in which order, and what came of them.

    ``names``: the jobs to run. ``tries(name)``: how many more times a job may be tried after it failed on one worker
    alone; ``charge(name, verdict)`` takes note of that.
    """

    def __init__(
        self,
        exchange: Exchange,
        names: Sequence[str],
        order: Order | None,
        at_once: int,
        tries: Callable[[str], int],
        charge: Callable[[str, Verdict], None],
        expected: Mapping[str, int | None],
    ) -> None:
        self._exchange = exchange
        self._waiting = list(names)
        self._costing = Costing(order, names[:at_once])
        self._free = list(range(at_once))[::-1]
        self._running: dict[str, _Running] = {}
        self._tries = tries
        self._charge = charge
        self._expected = dict(expected)
        self._num_ends = 0
        self._stop = 0
        self._over = False

    def begin(self) -> None:
        """Start the first jobs."""
        self._admit()
        self._tell_order()

    def heard(self, message: Mapping[str, Any]) -> None:
        """Act on what a worker tells."""
        what, worker = message["what"], message["from"]
        if what == "gone":
            self._gone(message)
        elif what == "costs":
            self._costing.heard(worker, message["figures"])
            if worker == 0:
                for name, (turns, expected) in message["turns"].items():
                    if name in self._running:
                        self._running[name].turns, self._running[name].expected = turns, expected
            self._reorder()
        elif what == "asked to stop":
            if message["wish"] > self._stop:
                self._stop = message["wish"]
                self._exchange.tell_all("stop", wish=self._stop)
                for name in self._waiting:
                    self._exchange.tell_all("never", name=name)
                self._waiting.clear()
                self._finish_if_over()
        elif what == "doomed" and message["name"] in self._running:
            self._running[message["name"]].doomed = message["why"]
            self._end(message["name"])
            if message["all"]:
                self.heard({"what": "asked to stop", "from": worker, "wish": STOP_NOW})

    def look(self) -> None:
        """Decide what time decides: whether a failed job's other processes are still to be waited for."""
        now = time.monotonic()
        for job in list(self._running.values()):
            if job.ends and not job.told_to_end and not all(end.well for end in job.ends.values()):
                killed = any(end.exit_status < 0 or not end.status for end in job.ends.values())
                if killed or now - job.first_end_at > SAME_ERROR_SECONDS:
                    self._end(job.name)

    def _admit(self) -> None:
        while self._free and self._waiting and not self._stop:
            name = self._waiting.pop(0)
            self._start(name, 0)
            if self._costing.joined(name, list(self._running)) is not None:
                self._tell_order()

    def _start(self, name: str, attempt: int) -> None:
        job = self._running[name] = _Running(name, self._free.pop(), attempt, expected=self._expected.get(name))
        self._exchange.tell_all("start", name=name, seat=job.seat, attempt=attempt)

    def _tell_order(self, reason: str | None = None) -> None:
        live = [name for name in self._costing.order.turns if name in self._running]
        live += [name for name in self._running if name not in live]
        self._exchange.tell_all("order", order=live, reason=reason)

    def _reorder(self) -> None:
        turns = {name: job.turns for name, job in self._running.items()}
        expected = {name: job.expected for name, job in self._running.items()}
        change = self._costing.change(turns, expected, self._exchange.num_workers)
        if change is not None:
            self._tell_order(change.reason)

    def _end(self, name: str) -> None:
        job = self._running.get(name)
        if job is not None and not job.told_to_end:
            job.told_to_end = True
            self._exchange.tell_all("end", name=name)

    def _gone(self, message: Mapping[str, Any]) -> None:
        job = self._running.get(message["name"])
        if job is None or job.attempt != message["attempt"]:
            return
        self._num_ends += 1
        fields = {key: message[key] for key in ("status", "turns", "kind", "error", "exit_status", "last_on_stderr")}
        asked = job.told_to_end and message["exit_status"] < 0
        job.ends[message["from"]] = End(worker=message["from"], number=self._num_ends, asked=asked, **fields)
        job.first_end_at = job.first_end_at or time.monotonic()
        if len(job.ends) == self._exchange.num_workers:
            self._conclude(job)

    def _conclude(self, job: _Running) -> None:
        del self._running[job.name]
        self._free.append(job.seat)
        self._costing.ended(job.name)
        verdict = judge(job.ends, stopping=bool(self._stop))
        if job.doomed is not None and verdict.status != "finished":
            verdict = Verdict("failed", verdict.turns, job.doomed)
        if verdict.alone:
            self._charge(job.name, verdict)
            if job.attempt < self._tries(job.name):
                why = short_form(verdict.error or "")
                text = f"failed on worker {verdict.worker} alone, in turn {verdict.turns + 1} ({why}); it starts again."
                self._exchange.tell_all("again", name=job.name, text=text)
                self._start(job.name, job.attempt + 1)
                self._tell_order()
                return
        error = verdict.error
        if verdict.alone:
            error = f"on worker {verdict.worker} alone, in turn {verdict.turns + 1}: {error}"
        self._exchange.tell_all(
            "concluded", name=job.name, status=verdict.status, turns=verdict.turns, error=error, alone=verdict.alone
        )
        self._admit()
        if self._running:
            self._tell_order()
        self._finish_if_over()

    def _finish_if_over(self) -> None:
        if not self._running and not self._waiting and not self._over:
            self._over = True
            self._exchange.tell_all("over")
