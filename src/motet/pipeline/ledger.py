"""What every job has cost so far on this worker, and what came of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from motet.results import JobResult, Results, Status
from motet.schedule.bound import Work, bound_seconds, efficiency


class SyncFigures(Protocol):
    """What a turn's synchronization took, whoever measured it: moments on this worker's clock, and seconds."""

    launched: float
    completed: float
    hidden_seconds: float
    link_seconds: float
    num_bytes: int
    launches: list[tuple[float, int]]


@dataclass
class JobTotals:
    """One job's sums. ``link_seconds`` is its share of the network's busy time (`motet.timing.clocks.LinkMeter`).

    ``covered_seconds``: for how long its own backward passes would have covered it, had nothing queued before it.
    """

    num_turns: int = 0
    compute_seconds: float = 0.0
    sync_seconds: float = 0.0
    hidden_seconds: float = 0.0
    link_seconds: float = 0.0
    covered_seconds: float = 0.0
    startup_seconds: float = 0.0
    num_bytes: int = 0


class RunLedger:
    """The ledgers of all jobs of a run, and the results of those that have ended."""

    def __init__(self) -> None:
        self.totals: defaultdict[str, JobTotals] = defaultdict(JobTotals)
        self.finished: dict[str, JobResult] = {}

    def computed(self, job: str, seconds: float, startup_seconds: float = 0.0) -> None:
        """Note that a job computed, after it had started up: that is no computing, and no order makes it shorter."""
        self.totals[job].compute_seconds += seconds
        self.totals[job].startup_seconds += startup_seconds

    def synced(self, job: str, figures: SyncFigures, turn_end: float | None = None) -> float:
        """Note a turn's synchronization; return how many seconds of it were hidden. ``turn_end``: of this turn."""
        ledger = self.totals[job]
        seconds = figures.completed - figures.launched
        hidden = min(max(figures.hidden_seconds, 0.0), seconds)
        ledger.num_turns += 1
        ledger.sync_seconds += seconds
        ledger.hidden_seconds += hidden
        ledger.link_seconds += figures.link_seconds
        if turn_end is not None and figures.launches:
            ledger.covered_seconds += min(max(turn_end - figures.launches[0][0], 0.0), seconds)
        ledger.num_bytes += figures.num_bytes
        return hidden

    def ended(
        self,
        job: str,
        status: Status,
        turns: int,
        result: Any,
        error: str | None,
        memory: Mapping[str, Any] | None = None,
        nonfinite: Mapping[str, Mapping[str, object]] | None = None,
        failed_on: int | None = None,
    ) -> None:
        """Note what came of a job."""
        ledger = self.totals[job]
        self.finished[job] = JobResult(
            status=status,
            turns=turns,
            compute_seconds=ledger.compute_seconds,
            sync_seconds=ledger.sync_seconds,
            hidden_seconds=ledger.hidden_seconds,
            result=result,
            error=error,
            memory=memory,
            startup_seconds=ledger.startup_seconds,
            nonfinite=nonfinite,
            failed_on=failed_on,
        )

    def results(self, names: Sequence[str], num_workers: int, wall_seconds: float, notices: tuple[str, ...]) -> Results:
        """Return what came of the run; the bound follows from this run's own costs (`motet.schedule.bound`)."""
        totals = [self.totals[name] for name in self.finished]
        works = [Work(ledger.compute_seconds, ledger.link_seconds, ledger.covered_seconds) for ledger in totals]
        bound = bound_seconds(works)
        startup = sum(ledger.startup_seconds for ledger in totals)
        return Results(
            jobs={name: self.finished[name] for name in names if name in self.finished},
            num_workers=num_workers,
            wall_seconds=wall_seconds,
            bound_seconds=bound,
            efficiency=efficiency(bound, wall_seconds - startup),
            startup_seconds=startup,
            notices=notices,
        )
