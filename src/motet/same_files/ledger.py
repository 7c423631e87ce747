"""Which job has written which file. Pure: paths are texts, and nobody looks at a disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

# Of a file, and of what belongs to it: when it was changed, its size, which one it is; None: there is none.
Signature = Sequence[Sequence[int] | None]
MOST_PATHS = 100_000  # beyond that the longest known are forgotten


@dataclass(frozen=True)
class Clash:
    """``job`` does something (``verb``: writes, replaces, ...) to ``path``, which ``others`` have written."""

    job: str
    verb: str
    path: str
    others: tuple[str, ...]


class Ledger:
    """Every file that the jobs of a run have written, with who did.

    Jobs that have only appended to a file share it: that is no clash, before one of them does anything else to it.
    """

    def __init__(self) -> None:
        self._writers: dict[str, dict[str, bool]] = {}  # path: job: whether it did more than append

    def writes(self, job: str, path: str, verb: str = "writes") -> Clash | None:
        """Note that ``job`` writes a file as it likes; return the clash if others have written it."""
        writers = self._of(path)
        others = tuple(other for other in writers if other != job)
        writers[job] = True
        return Clash(job, verb, path, others) if others else None

    def makes(self, job: str, path: str) -> None:
        """Note that ``job`` makes a file that was not there: nobody loses anything."""
        self._of(path)[job] = True

    def changed(self, job: str, path: str, since: int, now: Signature) -> Clash | None:
        """Note that a file that ``job`` may write is another one than at the moment ``since``; a clash, as above."""
        return self.removes(job, path) if now[0] is None else self.writes(job, path)

    def appends(self, job: str, path: str) -> None:
        """Note that ``job`` adds lines to a file, as others may."""
        self._of(path).setdefault(job, False)

    def removes(self, job: str, path: str, verb: str = "removes") -> Clash | None:
        """Note that a file, or a folder with all that is in it, is gone; a clash if others have written in it."""
        others: dict[str, None] = {}
        for known in self._below(path):
            others.update(dict.fromkeys(other for other in self._writers.pop(known) if other != job))
        return Clash(job, verb, path, tuple(others)) if others else None

    def renames(self, job: str, source: str, target: str) -> list[Clash]:
        """Note that ``source``, a file or a folder, is ``target`` from now on; return who loses what by that."""
        moved = self._below(source) or [source]
        clashes = []
        for known in moved:
            place = target + known[len(source) :]
            if (clash := self.writes(job, place, "replaces")) is not None:
                clashes.append(clash)
        if (clash := self.removes(job, source, "renames")) is not None:
            clashes.append(clash)
        return clashes

    def _of(self, path: str) -> dict[str, bool]:
        if path not in self._writers and len(self._writers) >= MOST_PATHS:
            del self._writers[next(iter(self._writers))]
        return self._writers.setdefault(path, {})

    def _below(self, path: str) -> list[str]:
        if path in self._writers:
            return [path]
        folder = path + os.sep
        return [known for known in self._writers if known.startswith(folder)]
