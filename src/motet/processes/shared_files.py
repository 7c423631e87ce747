"""Two jobs that write one file, where each is a process of its own.

Each process watches its own files (`motet.same_files`) and reports to its worker what it writes
(`motet.processes.reporting_ledger`); the worker knows which job has written which file. A clash is reported when it has
happened: no process asks before it writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from motet.config import OnSameFile
from motet.processes.messages import FileReport
from motet.same_files.ledger import Clash, Ledger
from motet.same_files.watch import LOSS, REMEDY, in_words


class SharedFiles:
    """Which job of this worker has written which file. ``answer``: what becomes of the job that comes second.

    ``notify`` notifies the user; ``fail(job, why)`` ends a job as failed, or the run.
    """

    def __init__(
        self, answer: OnSameFile, notify: Callable[[str, str], None], fail: Callable[[str, str], None]
    ) -> None:
        self._answer = answer
        self._notify = notify
        self._fail = fail
        self._ledger = Ledger()
        self._pairs: set[frozenset[str]] = set()

    def receive(self, job: str, report: FileReport) -> None:
        """Act on what a job reports of its files."""
        if report.event == "appends":
            self._ledger.appends(job, report.path)
        elif report.event == "writes":
            self._found(self._ledger.writes(job, report.path, report.verb))
        elif report.event == "removes":
            self._found(self._ledger.removes(job, report.path, report.verb))
        else:
            for clash in self._ledger.renames(job, report.path, report.target):
                self._found(clash)

    def _found(self, clash: Clash | None) -> None:
        if clash is None:
            return
        new = {frozenset((clash.job, other)) for other in clash.others} - self._pairs
        if not new:
            return
        self._pairs |= new
        text = in_words(replace(clash, others=tuple(other for other in clash.others if {clash.job, other} in new)))
        self._notify(clash.job, f"{text}: {LOSS}. {REMEDY}.")
        if self._answer != "warn":
            self._fail(clash.job, text)
