"""Libraries that write files past Python: their functions report the path first.

Which, is in `motet.patches.WRITERS`. Found by name, as soon as the library is there; what was exchanged is put back at
the end of the run, and passes everything through where somebody has kept it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any

from motet.patches import WRITERS, Writer
from motet.patching import replace

Report = Callable[[object], None]


MODULES = frozenset(writer.module for writer in WRITERS)
PACKAGES = frozenset(module.partition(".")[0] for module in MODULES)


class Libraries:
    """Which of them are there, for one run. ``report(path)`` is called before a file is written."""

    def __init__(self, report: Report) -> None:
        self._report: Report | None = report
        self._undo: list[Callable[[], None]] = []
        self._left = list(WRITERS)
        self.look()

    def look(self) -> None:
        """Exchange the functions of what has been imported by now."""
        for writer in list(self._left):
            owner: Any = sys.modules.get(writer.module)
            *classes, name = writer.name.split(".")
            for part in classes:
                owner = getattr(owner, part, None)
            original = None if owner is None else vars(owner).get(name)
            if original is None:
                continue
            with contextlib.suppress(TypeError):  # written in C, and not to be changed
                self._undo.append(replace(owner, name, self._reporting(writer, original)))
            self._left.remove(writer)

    def close(self) -> None:
        """Put everything back."""
        self._report = None
        while self._undo:
            self._undo.pop()()

    def _reporting(self, writer: Writer, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def reporting(*args: Any, **kwargs: Any) -> Any:
            if self._report is not None and _writes(writer, args, kwargs):
                self._report(_argument(args, kwargs, writer.place, writer.keyword))
            return original(*args, **kwargs)

        return reporting


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, keyword: str) -> object:
    return args[place] if len(args) > place else kwargs.get(keyword)


def _writes(writer: Writer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if writer.mode is None:
        return True
    mode = _argument(args, kwargs, writer.mode, "mode")
    mode = writer.reads if mode is None else mode
    return not (isinstance(mode, str) and mode.startswith("r") and "+" not in mode)
