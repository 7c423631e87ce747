"""Which files a job's process writes: reported to its worker, which knows what other jobs have written."""

from __future__ import annotations

from collections.abc import Callable

from motet.processes.messages import FileReport
from motet.same_files.ledger import Clash, Ledger

MOST_REMEMBERED = 10_000


class ReportingLedger(Ledger):
    """Stands for the ledger in a job's process: reports each path once to the worker, and finds no clash itself."""

    def __init__(self, send: Callable[[FileReport], None]) -> None:
        super().__init__()
        self._send = send
        self._reported: dict[str, str] = {}

    def writes(self, job: str, path: str, verb: str = "writes") -> Clash | None:
        """Report a file that is written."""
        self._once(path, "writes", verb)
        return None

    def appends(self, job: str, path: str) -> None:
        """Report a file that lines are added to."""
        if path not in self._reported:
            self._once(path, "appends")

    def removes(self, job: str, path: str, verb: str = "removes") -> Clash | None:
        """Report a file, or a folder, that is gone."""
        self._reported.pop(path, None)
        self._send(FileReport("removes", path, verb))
        return None

    def renames(self, job: str, source: str, target: str) -> list[Clash]:
        """Report a file, or a folder, that has another name."""
        self._reported.pop(source, None)
        self._send(FileReport("renames", source, target=target))
        return []

    def _once(self, path: str, event: str, verb: str = "") -> None:
        if self._reported.get(path) != event:
            if len(self._reported) >= MOST_REMEMBERED:
                self._reported.clear()
            self._reported[path] = event
            self._send(FileReport(event, path, verb))
