"""How often jobs failed on one worker alone, in all starts of a run: each as often as ``--max-job-failures`` allows."""

from __future__ import annotations

import contextlib
from collections import Counter

from motet.checkpoints import resuming
from motet.processes.ends import Verdict
from motet.run_dir import RunDir


class Failures:
    """Worker 0's account of them, kept in the run directory. ``start``: the name of this start of the run."""

    def __init__(self, run_dir: RunDir | None, start: str, most: int) -> None:
        self._run_dir = run_dir
        self._start = start
        self._most = most
        self._here: Counter[str] = Counter()
        self._before: dict[str, int] = {}

    def charge(self, name: str, attempt: int, verdict: Verdict) -> bool:
        """Charge a job with a failure of its process number ``attempt``; return whether it may be tried again."""
        if name not in self._before:
            charged = [] if self._run_dir is None else resuming.attempts(self._run_dir, name)
            self._before[name] = len({each.start for each in charged})
        self._here[name] += 1
        if self._run_dir is not None:
            with contextlib.suppress(OSError):  # a full disk: then another start of the run tries it once too often
                start, worker = f"{self._start}_{attempt}", verdict.worker or 0
                resuming.record_failure(self._run_dir, name, start, worker, verdict.turns + 1, verdict.error or "")
        return self._before[name] + self._here[name] <= self._most
