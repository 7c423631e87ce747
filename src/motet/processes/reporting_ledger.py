"""Which files a job's process writes: reported to its worker, which knows what other jobs have written."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from motet.processes.job_messages import FileReport
from motet.same_files.ledger import Clash, Ledger, Signature


class ReportingLedger(Ledger):
    """Stands for the ledger in a job's process: reports to the worker, with the moment, and finds no clash itself."""

    def __init__(self, send: Callable[[FileReport], None]) -> None:
        super().__init__()
        self._send = send

    def writes(self, job: str, path: str, verb: str = "writes") -> Clash | None:
        """Report a file that is written."""
        self._report("writes", path, verb=verb)
        return None

    def makes(self, job: str, path: str) -> None:
        """Report a file that was not there."""
        self._report("makes", path)

    def changed(self, job: str, path: str, since: int, now: Signature) -> Clash | None:
        """Report a file that this job may have written, or another one, and since when."""
        self._report("changed", path, since=since, now=now)
        return None

    def appends(self, job: str, path: str) -> None:
        """Report a file that lines are added to."""
        self._report("appends", path)

    def removes(self, job: str, path: str, verb: str = "removes") -> Clash | None:
        """Report a file, or a folder, that is gone."""
        self._report("removes", path, verb=verb)
        return None

    def renames(self, job: str, source: str, target: str) -> list[Clash]:
        """Report a file, or a folder, that has another name."""
        self._report("renames", source, target=target)
        return []

    def _report(self, event: str, path: str, **more: Any) -> None:
        self._send(FileReport(event, path, time.monotonic_ns(), **more))
