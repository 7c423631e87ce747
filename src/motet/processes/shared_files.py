"""Two jobs that write one file, where each is a process of its own.

Each process watches its own files (`motet.same_files`) and reports to its worker what it writes
(`motet.processes.reporting_ledger`); the worker knows which job has written which file. A clash is reported when it has
happened: no process asks before it writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from motet.config import OnSameFile
from motet.processes.job_messages import FileReport
from motet.processes.messages import ClashReport
from motet.processes.process_job import ProcessJob
from motet.same_files.ledger import MOST_PATHS, Clash, Ledger
from motet.same_files.notices import ClashNotices, with_remedy
from motet.same_files.outputs import GivenOutputs


class SharedFiles:
    """Which job of this worker has written which file. ``answer``: what becomes of the job that comes second.

    ``notify`` notifies the user; ``fail(job, why)`` ends a job as failed, or the run; ``pass_on`` reports a clash to
    worker 0 (None: this is worker 0).
    """

    def __init__(
        self,
        answer: OnSameFile,
        notify: Callable[[str | None, str], None],
        fail: Callable[[str, str], None],
        pass_on: Callable[[ClashReport], None] | None,
    ) -> None:
        self._answer = answer
        self._notify = notify
        self._fail = fail
        self._pass_on = pass_on
        self._ledger = Ledger()
        self._notices = ClashNotices()
        self._received: list[tuple[str, FileReport]] = []
        self._last: dict[str, tuple[str, FileReport]] = {}  # who has written a file last

    def begin(self, jobs: Iterable[ProcessJob]) -> None:
        """Notify of the places that several jobs were given to write to, before any of them does."""
        outputs = GivenOutputs()
        for job in jobs:
            outputs.note(job.described())
        for text in outputs.take() if self._pass_on is None else ():
            self._notify(None, text)

    def receive(self, job: str, report: FileReport) -> None:
        """Take in what a job reports of its files."""
        self._received.append((job, report))

    def settle(self, until: float = math.inf) -> None:
        """Act on what happened before a moment, in the order in which it did.

        Jobs are listened to one after the other: what happened later than the first was asked may still miss something
        earlier.
        """
        if not self._received:
            return
        self._received.sort(key=lambda each: each[1].at)
        due = [each for each in self._received if each[1].at < until]
        del self._received[: len(due)]
        for job, report in due:
            for clash in self._happened(job, report):
                self._found(clash)

    def passed_on(self, report: ClashReport) -> None:
        """Notify of a clash that another worker has found, on worker 0."""
        self._notify_clash(Clash(report.job, report.verb, report.path, tuple(report.others)))

    def finish(self) -> None:
        """Notify of all such files once more, on worker 0."""
        self.settle()
        for text in self._notices.at_the_end() if self._pass_on is None else ():
            self._notify(None, text)

    def _happened(self, job: str, report: FileReport) -> list[Clash]:
        event, path = report.event, report.path
        if event == "changed":
            if self._was_another(job, report):
                return []
            return _listed(self._ledger.changed(job, path, report.since, report.now))
        self._note(path, job, report)
        if event == "renames":
            self._note(report.target, job, report)
            return self._ledger.renames(job, path, report.target)
        if event in ("makes", "appends"):
            getattr(self._ledger, event)(job, path)
            return []
        return _listed(getattr(self._ledger, event)(job, path, report.verb))

    def _was_another(self, job: str, report: FileReport) -> bool:
        """Whether what a job has found changed is another's doing: that one reported it, or found just that before."""
        writer, last = self._last.get(report.path, (job, report))
        if writer != job and (last.at >= report.since or last.now == report.now):
            return True
        self._note(report.path, job, report)
        return False

    def _note(self, path: str, job: str, report: FileReport) -> None:
        if path not in self._last and len(self._last) >= MOST_PATHS:
            del self._last[next(iter(self._last))]
        self._last[path] = job, report

    def _found(self, clash: Clash) -> None:
        if self._pass_on is not None and self._notices.is_news(clash):
            self._pass_on(ClashReport(clash.job, clash.verb, clash.path, clash.others))
        text = self._notify_clash(clash)
        if text is not None and self._answer != "warn":
            self._fail(clash.job, text)

    def _notify_clash(self, clash: Clash) -> str | None:
        text = self._notices.take(clash)
        if text is not None:
            self._notify(clash.job, with_remedy(text))
        return text


def _listed(clash: Clash | None) -> list[Clash]:
    return [] if clash is None else [clash]
