"""Processes that a job forks (DataLoader workers, `multiprocessing`) report their files through a pipe.

What they report is taken note of at the end of a turn, so nothing that they do can be prevented.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from typing import Any

from motet.same_files.paths import arguments_of

LOOK_EVERY_SECONDS = 0.1
_MOST_BYTES = 4096  # so much is written at once, or not at all (PIPE_BUF)


class Children:
    """The pipe between the children of this worker and their parent."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._reading, False)
        os.set_blocking(self._writing, False)
        self._open = b""
        self._due = math.inf  # nobody has been forked: there is nothing to read

    def close(self) -> None:
        """Read no more of it."""
        os.close(self._reading)
        os.close(self._writing)

    def forked(self) -> None:
        """There is one now."""
        self._due = 0.0

    def due(self) -> bool:
        """Whether it is time to read them: a look costs more than the rest of what is done at a turn's end."""
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + LOOK_EVERY_SECONDS
        return True

    def received(self) -> list[tuple[str, list[Any]]]:
        """Return what they have reported since: a method of `SameFiles`, and its arguments."""
        try:
            data = os.read(self._reading, 1 << 20)
        except BlockingIOError:
            return []
        *lines, self._open = (self._open + data).split(b"\n")
        reports = [json.loads(line) for line in lines]
        return [(method, args) for method, args in reports]

    def runs(self, job: str, command: object, folder: object = None) -> None:
        """In a child: another program is started."""
        start = os.getcwd() if folder is None else os.fsdecode(folder)  # type: ignore[arg-type]
        for argument in arguments_of(command, start):
            self.may_write(job, os.path.join(start, argument))

    def __getattr__(self, method: str) -> Callable[..., None]:
        """In a child, stand for what takes note of files there: pass everything on."""
        if method.startswith("_"):
            raise AttributeError(method)

        def report(job: str, *args: Any) -> None:
            plain = [_absolute(arg) for arg in args]
            if None in plain:
                return
            line = json.dumps([method, [job, *plain]]).encode() + b"\n"
            if len(line) <= _MOST_BYTES:
                with contextlib.suppress(OSError):  # full, or nobody listens any more
                    os.write(self._writing, line)

        return report


def _absolute(arg: Any) -> Any:
    """Return a path from the child's own folder; a descriptor of a folder means nothing to others."""
    if isinstance(arg, int):
        return arg if arg == -1 else None
    return os.path.abspath(os.fsdecode(arg))
