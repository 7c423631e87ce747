"""Libraries that write files past Python: their functions report the path first.

Which, is in `motet.patches.WRITERS`. Exchanged while the library is imported, before anybody can take a name out of it;
what was exchanged is put back at the end of the run, and passes everything through where somebody has kept it.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

from motet.patches import WRITERS, Writer
from motet.patching import replace

Report = Callable[[object], None]
MODULES = frozenset(writer.module for writer in WRITERS)


class Libraries:
    """Which of them are there, for one run. ``report(path)`` is called before a file is written."""

    def __init__(self, report: Report) -> None:
        self._report: Report | None = report
        self._undo: list[Callable[[], None]] = []
        self._left = list(WRITERS)
        self._look()
        sys.meta_path.insert(0, self)

    def close(self) -> None:
        """Put everything back."""
        self._report = None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        while self._undo:
            self._undo.pop()()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Find a library as Python does, and have its functions exchanged as soon as its code has run."""
        if name not in MODULES:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None) if finder is not self else None
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                loader: Any = spec.loader
                if loader is not None and not isinstance(loader, type):
                    loader.exec_module = functools.partial(self._load, loader.exec_module)
                return spec
        return None

    def _load(self, execute: Callable[[Any], None], module: Any) -> None:
        execute(module)
        self._look()

    def _look(self) -> None:
        """Exchange the functions of what has been imported by now."""
        for writer in list(self._left) if self._report is not None else ():
            owner: Any = sys.modules.get(writer.module)
            *classes, name = writer.name.split(".")
            for part in classes:
                owner = getattr(owner, part, None)
            original = None if owner is None else vars(owner).get(name)
            if original is None:
                continue
            self._undo.append(_replace(owner, name, self._reporting(writer, original), original))
            self._left.remove(writer)

    def _reporting(self, writer: Writer, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def reporting(*args: Any, **kwargs: Any) -> Any:
            if self._report is not None and _writes(writer, args, kwargs):
                self._report(_argument(args, kwargs, writer.place, writer.keyword))
            return original(*args, **kwargs)

        return reporting


def _replace(owner: Any, name: str, value: object, original: object) -> Callable[[], None]:
    try:
        return replace(owner, name, value)
    except TypeError:  # a class written in C or Rust, which lets only its dictionary be changed
        _enter(owner, name, value)
        return functools.partial(_enter, owner, name, original)


def _enter(owner: type, name: str, value: object) -> None:
    gc.get_referents(vars(owner))[0][name] = value
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, keyword: str) -> object:
    return args[place] if len(args) > place else kwargs.get(keyword)


def _writes(writer: Writer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if writer.mode is None:
        return True
    mode = _argument(args, kwargs, writer.mode, "mode")
    mode = writer.reads if mode is None else mode
    return not (isinstance(mode, str) and mode.startswith("r") and "+" not in mode)
