"""The two ends of a run, watched by the launcher: what workers do before their own watch begins and after it has ended.

Each worker writes down what it does (`RunDir.write_state`). Where none of it moves for the whole timeout, nobody else
could report it: a worker that hangs in an import or in a file system that does not answer, or that was stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from motet.run_dir import RUNS, RunDir, WorkerState
from motet.timing.clocks import LONGEST_LOOK_SECONDS

IMPORTS, JOINS, WRITES, ENDS = "importing", "joining the others", "writing results", "ending"
# Imports take long where a cluster's file system is cold: a short timeout does not mean these.
LONGEST_BEGIN_SECONDS = 60.0
LOOK_EVERY_SECONDS = 0.5
SILENT_SECONDS = 1.5  # 2 s, with a look
_EARLY = {phase.replace(" ", "-") for phase in (IMPORTS, JOINS)}
_LATE = {phase.replace(" ", "-") for phase in (WRITES, ENDS, "done")}


class Ends:
    """Looks at what the workers of this machine do.

    ``notify`` gets what takes long; where ``rows`` show what jobs do, nothing of these. ``timeout_seconds``
    holds for each end of the run.
    """

    def __init__(self, run_dir: RunDir, timeout_seconds: float, notify: Callable[[str], None], *, rows: bool) -> None:
        self._run_dir = run_dir
        self._timeout_seconds = timeout_seconds
        self._notify, self._rows = notify, rows
        self._seen: dict[int, tuple[WorkerState | None, float]] = {}  # by worker: its state, and for how long already
        self._come: set[int] = set()  # workers that have written something
        self._looked = time.monotonic()
        self._reported_seconds = 0.0
        self._reported_gone = False

    def begin(self, workers: Collection[int]) -> None:
        """Forget what workers of an attempt before have written."""
        self._seen, self._looked, self._reported_seconds = {}, time.monotonic(), 0.0
        self._come.clear()
        for worker in workers:
            self._run_dir.forget_state(worker)

    def look(self, workers: Collection[int]) -> str | None:
        """Look at those workers that run; return who holds up the run, once that has lasted too long."""
        now = time.monotonic()
        if not workers or now - self._looked < LOOK_EVERY_SECONDS:
            return None
        # A launcher that was stopped for an hour saw nothing stand still.
        passed, self._looked = min(now - self._looked, LONGEST_LOOK_SECONDS), now
        before, self._seen = self._seen, {}
        for worker in workers:
            state = self._run_dir.read_state(worker)
            same = worker in before and before[worker][0] == state
            self._seen[worker] = (state, before[worker][1] + passed if same else 0.0)
        if any(state is None and worker in self._come for worker, (state, _) in self._seen.items()):
            self._report_gone()  # or a worker begins to write
            return None
        self._come |= {worker for worker, (state, _) in self._seen.items() if state is not None}
        still = min(seconds for _, seconds in self._seen.values())
        self._report_wait(still)
        early = [_is_early(state) for state, _ in self._seen.values()]
        late = [state is not None and state.phase in _LATE for state, _ in self._seen.values()]
        if any(early):
            limit, what = max(self._timeout_seconds, LONGEST_BEGIN_SECONDS), "begun"
        elif any(late):
            limit, what = self._timeout_seconds, "come to its end"
        else:
            return None
        if still <= limit:
            return None
        return f"The run has not {what}: nothing has moved for {still:.0f} s (--timeout).\n" + "\n".join(
            f"  worker {worker}: {_doing(state)}" for worker, (state, _) in sorted(self._seen.items())
        )

    def _report_gone(self) -> None:
        """Say once that somebody has removed the run directory."""
        if not self._run_dir.is_there() and not self._reported_gone:
            self._reported_gone = True
            self._notify(
                f"the run directory {self._run_dir.path} has been removed: the run goes on, but what it kept is lost, "
                "and it cannot be resumed from there"
            )

    def _report_wait(self, still: float) -> None:
        """Say what takes so long, every two seconds at first, at least once a minute."""
        if still < SILENT_SECONDS:
            self._reported_seconds = 0.0
            return
        if still < self._reported_seconds + min(max(self._reported_seconds / 10, SILENT_SECONDS), 60.0):
            return
        self._reported_seconds = still
        longest = max(self._seen, key=lambda worker: self._seen[worker][1])
        state, seconds = self._seen[longest]
        if state is not None and (state.phase == RUNS.replace(" ", "-") or (self._rows and state.job is not None)):
            return
        self._notify(f"worker {longest}: {_doing(state)}, for {seconds:.0f} s now")


def _is_early(state: WorkerState | None) -> bool:
    return state is None or state.phase in _EARLY


def _doing(state: WorkerState | None) -> str:
    if state is None:
        return "starting"
    phase = state.phase.replace("-", " ")
    return phase if state.job is None else f"turn {state.turn} of job {state.job!r} ({phase})"
