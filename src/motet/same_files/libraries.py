"""Libraries that write files past Python: their functions are told of the path first.

A row for each. Found by name, as soon as the library is there; what was exchanged is put back at the end of the run,
and passes everything through where somebody has kept it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Tell = Callable[[object], None]


@dataclass(frozen=True)
class Writer:
    """A function that writes the file given as its argument number ``place``, or ``keyword``.

    ``mode``: where it says how it opens the file; one that begins with ``r`` and has no ``+`` only reads it.
    """

    module: str
    name: str
    place: int
    keyword: str
    mode: int | None = None
    reads: str = ""  # the mode, where none is given


WRITERS = (
    Writer("safetensors", "serialize_file", 1, "filename"),
    Writer("safetensors.torch", "serialize_file", 1, "filename"),
    Writer("safetensors.numpy", "serialize_file", 1, "filename"),
    Writer("h5py._hl.files", "File.__init__", 1, "name", mode=2, reads="r"),
    Writer("tables.file", "File.__init__", 1, "filename", mode=2, reads="r"),
    Writer("netCDF4", "Dataset.__init__", 1, "filename", mode=2, reads="r"),
    Writer("pyarrow.parquet.core", "ParquetWriter.__init__", 1, "where"),
    Writer("pyarrow.feather", "write_feather", 1, "dest"),
    Writer("cv2", "imwrite", 0, "filename"),
    Writer("soundfile", "write", 0, "file"),
    Writer("torchvision.io.image", "write_file", 0, "filename"),
)
MODULES = frozenset(writer.module for writer in WRITERS)
PACKAGES = frozenset(module.partition(".")[0] for module in MODULES)


class Libraries:
    """Which of them are told of, for one run. ``tell(path)`` is called before a file is written."""

    def __init__(self, tell: Tell) -> None:
        self._tell: Tell | None = tell
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
            try:
                setattr(owner, name, self._telling(writer, original))
            except TypeError:  # written in C, and not to be changed
                pass
            else:
                self._undo.append(functools.partial(setattr, owner, name, original))
            self._left.remove(writer)

    def close(self) -> None:
        """Put everything back."""
        self._tell = None
        while self._undo:
            self._undo.pop()()

    def _telling(self, writer: Writer, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def telling(*args: Any, **kwargs: Any) -> Any:
            if self._tell is not None and _writes(writer, args, kwargs):
                self._tell(_argument(args, kwargs, writer.place, writer.keyword))
            return original(*args, **kwargs)

        return telling


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, keyword: str) -> object:
    return args[place] if len(args) > place else kwargs.get(keyword)


def _writes(writer: Writer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if writer.mode is None:
        return True
    mode = _argument(args, kwargs, writer.mode, "mode")
    mode = writer.reads if mode is None else mode
    return not (isinstance(mode, str) and mode.startswith("r") and "+" not in mode)
