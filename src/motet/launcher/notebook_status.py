"""How a run stands, in one small file that the launcher's notebook reads: ``RUN_DIR/state/status.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from motet.events import Event, JobEnded, JobStarted, MetricsLogged, RunEnded, RunStarted, SyncEnded
from motet.run_dir import make_folder, opener

EVERY_SECONDS = 0.5


def status_path(run_dir: Path) -> Path:
    """Return where the status is."""
    return run_dir / "state" / "status.json"


class StatusFile:
    """Write how the jobs stand, on worker 0, at most twice a second.

    ``{"seconds": 3.2, "jobs": {"wide": {"state": "running", "turns": 12, "expected": 100, "values": {...}}}}``
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = status_path(run_dir)
        self._writes = False
        self._began = self._due = 0.0
        self._jobs: dict[str, dict[str, Any]] = {}

    def observe(self, event: Event) -> None:
        """Take note, and write if it is time."""
        if isinstance(event, RunStarted):
            self._writes = event.worker == 0
            self._began = self._due = event.time
            self._jobs = {name: _row("waiting") for name in event.jobs}
        elif isinstance(event, JobStarted):
            self._jobs.setdefault(event.job, _row("running")).update(state="running", expected=event.turns)
        elif isinstance(event, SyncEnded):
            self._jobs[event.job]["turns"] = event.turn
        elif isinstance(event, MetricsLogged):
            self._jobs[event.job]["values"].update(event.values)
        elif isinstance(event, JobEnded):
            self._jobs[event.job].update(state=event.status, turns=event.turns)
        if self._writes and (event.time >= self._due or isinstance(event, JobEnded | RunEnded)):
            self._due = event.time + EVERY_SECONDS
            self._write(event.time - self._began)

    def _write(self, seconds: float) -> None:
        make_folder(self._path.parent)
        draft = self._path.with_suffix(".draft")
        with open(draft, "w", encoding="utf-8", opener=opener) as file:
            file.write(json.dumps({"seconds": seconds, "jobs": self._jobs}))
        os.replace(draft, self._path)  # never seen half written; no fsync, as it is for the moment only


def _row(state: str) -> dict[str, Any]:
    return {"state": state, "turns": 0, "expected": None, "values": {}}
