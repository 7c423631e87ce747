"""Two jobs that write one file, where each is a process of its own.

Each process watches its own files (`motet.same_files`), and tells its worker of what it writes; the worker knows which
job has written which file. What comes second is told when it has happened: nobody is asked before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from motet.config import OnSameFile
from motet.same_files.ledger import Clash, Ledger
from motet.same_files.watch import LOSS, REMEDY, in_words

MOST_REMEMBERED = 10_000


class ToldLedger(Ledger):
    """Stands for the ledger in a job's process: tells the worker, once for each path, and finds no clash itself."""

    def __init__(self, tell: Callable[..., None]) -> None:
        super().__init__()
        self._tell = tell
        self._told: dict[str, str] = {}

    def writes(self, job: str, path: str, verb: str = "writes") -> Clash | None:
        """Tell of a file that is written."""
        self._once(path, "writes", verb=verb)
        return None

    def appends(self, job: str, path: str) -> None:
        """Tell of a file that lines are added to."""
        if path not in self._told:
            self._once(path, "appends")

    def removes(self, job: str, path: str, verb: str = "removes") -> Clash | None:
        """Tell of a file, or a folder, that is gone."""
        self._told.pop(path, None)
        self._tell("file", event="removes", path=path, verb=verb)
        return None

    def renames(self, job: str, source: str, target: str) -> list[Clash]:
        """Tell of a file, or a folder, that has another name."""
        self._told.pop(source, None)
        self._tell("file", event="renames", path=source, target=target)
        return []

    def _once(self, path: str, event: str, **more: str) -> None:
        if self._told.get(path) != event:
            if len(self._told) >= MOST_REMEMBERED:
                self._told.clear()
            self._told[path] = event
            self._tell("file", event=event, path=path, **more)


class SharedFiles:
    """Which job of this worker has written which file. ``answer``: what becomes of the job that comes second.

    ``notify`` tells the user; ``doom(job, why)`` ends a job as failed, or the run.
    """

    def __init__(
        self, answer: OnSameFile, notify: Callable[[str, str], None], doom: Callable[[str, str], None]
    ) -> None:
        self._answer = answer
        self._notify = notify
        self._doom = doom
        self._ledger = Ledger()
        self._pairs: set[frozenset[str]] = set()

    def heard(self, job: str, word: Mapping[str, Any]) -> None:
        """Act on what a job tells of its files."""
        event, path = word["event"], word["path"]
        if event == "appends":
            self._ledger.appends(job, path)
        elif event == "writes":
            self._found(self._ledger.writes(job, path, word["verb"]))
        elif event == "removes":
            self._found(self._ledger.removes(job, path, word["verb"]))
        else:
            for clash in self._ledger.renames(job, path, word["target"]):
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
            self._doom(clash.job, text)
