"""Logging: every logger, its handlers, and what the `logging` module itself keeps.

A process for each job would give each job loggers of its own. Here:

- A logger that a job makes for itself is its own: each job has its own dictionary of loggers by name.
- A logger that libraries hold (``logger = logging.getLogger(__name__)`` at the head of a module that is everyone's), or
  that was there before the run, is one object for all. Its attributes are the job's: level, handlers, filters,
  propagation, and whatever else was set. They are exchanged as a whole, a pointer for each logger.
- Handlers that were there before the run write to the job that has its turn. (One that is made in a job's turn holds
  the job's stream, which hands on what others write: `motet.output.streams`.)
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from motet.isolation import scripts
from motet.isolation.ownership import top_of
from motet.isolation.registry import add

_logging: Any = logging

# A logger that a framework configures when it is imported, with the level that it then gets (None: by environment).
_LOGGERS: dict[str, int | None] = {
    "lightning": logging.INFO,
    "lightning.pytorch": logging.INFO,
    "lightning.fabric": logging.INFO,
    "pytorch_lightning": logging.INFO,
    "lightning_fabric": logging.INFO,
    "transformers": None,
    "accelerate": logging.NOTSET,
    "datasets": logging.WARNING,
    "huggingface_hub": logging.WARNING,
}
_MODULE = (
    *("_loggerClass", "_logRecordFactory", "_handlers", "lastResort", "raiseExceptions", "_warnings_showwarning"),
    *("_levelToName", "_nameToLevel"),
)

_Attributes = dict[str, Any]


@dataclass(slots=True)
class Logs:
    """One owner's logging. ``common`` are the attributes of the common loggers."""

    manager: _Attributes
    root: _Attributes
    common: dict[logging.Logger, _Attributes] = field(default_factory=dict)
    module: tuple[Any, ...] = ()
    handlers: list[Any] = field(default_factory=list)  # weak references, as logging keeps them
    streams: list[Any] = field(default_factory=list)
    own: set[str] = field(default_factory=set)
    mark: tuple[int, str] = (0, "")
    found: list[Any] = field(default_factory=list)  # of the handlers, those that the owner began with


_present: Logs | None = None
_common: dict[logging.Logger, None] = {}  # in the order in which they became so
_library_handlers: weakref.WeakSet[logging.Handler] = weakref.WeakSet()  # that a module of everyone's holds
# The attributes of handlers that were there before the run and write to a stream, not they: none is kept alive.
_outer: list[_Attributes] = []


def take_logging() -> Logs:
    """Return the present owner's logging. Looks at the loggers one by one only if some were added since."""
    global _present
    if _present is None:
        _present = Logs(vars(logging.root.manager), vars(logging.root))
        scripts.new_common.clear()  # what came before: all of it becomes common with the first copy
    now = _present
    mark = _mark()
    if mark != now.mark:
        _sort_out(now)
        now.mark = mark
    scripts.new_common.clear()
    now.module = tuple(getattr(_logging, name, None) for name in _MODULE)
    now.handlers = list(_logging._handlerList)
    now.streams = [attributes.get("stream") for attributes in _outer]
    return now


def put_logging(value: Logs) -> None:
    """Put one owner's logging in the place of another's."""
    global _present
    if value is not _present:
        _present = value
        logging.root.manager.__dict__ = value.manager
        logging.root.__dict__ = value.root
        for logger, attributes in value.common.items():
            logger.__dict__ = attributes
        if len(value.common) < len(_common):
            for logger in [logger for logger in _common if logger not in value.common]:
                _make_known(value, logger)
        _logging._handlerList[:] = value.handlers
    for name, content in zip(_MODULE, value.module, strict=True):
        setattr(_logging, name, content)
    for attributes, stream in zip(_outer, value.streams, strict=False):
        if attributes.get("stream") is not stream:
            attributes["stream"] = stream


def copy_logging(value: Logs) -> Logs:
    """Return the same with attributes, handlers and names of its own, for another job to begin with.

    From now on two have what was the one's own: it becomes common, to be exchanged.
    """
    _note_outer(value.handlers)
    for name in value.own:
        if isinstance(logger := value.manager["loggerDict"].get(name), logging.Logger):
            _make_common(value, logger)
    value.own.clear()
    known = {name: _copy_placeholder(logger) for name, logger in list(value.manager["loggerDict"].items())}
    module = dict(zip(_MODULE, value.module, strict=True))
    module["_handlers"] = weakref.WeakValueDictionary(module["_handlers"])
    for names in ("_levelToName", "_nameToLevel"):
        module[names] = dict(module[names])
    return Logs(
        {**value.manager, "loggerDict": known},
        _copy_attributes(value.root),
        {logger: _copy_attributes(attributes) for logger, attributes in value.common.items()},
        tuple(module.values()),
        list(value.handlers),
        [attributes.get("stream") for attributes in _outer] if value is _present else list(value.streams),
        mark=value.mark,
        found=list(value.handlers),
    )


def redirect(outer: tuple[TextIO | None, ...], stdout: TextIO, stderr: TextIO) -> None:
    """Let handlers that write to one of the ``outer`` streams (stdout, stderr, stdout, ...) write to these."""
    for attributes in _stream_handlers(list(_logging._handlerList)):
        for number, stream in enumerate(outer):
            if stream is not None and attributes.get("stream") is stream:
                attributes["stream"] = stderr if number % 2 else stdout
                break


def shut_down() -> None:
    """Have the present owner's handlers write what they still hold, and close those that it has made.

    As `logging.shutdown` does at the end of a process, the last first. What a library holds stays open for others.
    """
    if _present is None:
        return
    for reference in reversed(list(_logging._handlerList)):
        if (handler := reference()) is None:
            continue
        with contextlib.suppress(OSError, ValueError), _locked(handler):  # its stream may be closed
            if getattr(handler, "flushOnClose", True):
                handler.flush()
            if reference not in _present.found and not _is_a_librarys(handler):
                handler.close()


@contextlib.contextmanager
def _locked(handler: logging.Handler) -> Iterator[None]:
    handler.acquire()
    try:
        yield
    finally:
        handler.release()


def _is_a_librarys(handler: logging.Handler) -> bool:
    return handler in _library_handlers or any(
        handler in logger.handlers for logger in _common if logger.name in _LOGGERS
    )


def _mark() -> tuple[int, str]:
    """Return what changes when a logger is added."""
    known = logging.root.manager.loggerDict
    while True:
        try:
            return len(known), next(reversed(known), "")
        except RuntimeError:  # a thread has made a logger in between
            continue


def _sort_out(now: Logs) -> None:
    """Find out which of the new loggers are the present owner's own."""
    held = _held_by_libraries()
    own_tops = scripts.own_names()
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if not isinstance(logger, logging.Logger) or name in now.own or logger in now.common:
            continue
        top = top_of(name)
        if id(logger) in held or (top not in own_tops and scripts.is_common(top)):
            _make_common(now, logger)
        else:
            now.own.add(name)


def _make_common(owner: Logs, logger: logging.Logger) -> None:
    _common[logger] = None
    owner.common[logger] = vars(logger)


def _held_by_libraries() -> set[int]:
    """Return the loggers that modules of everyone's hold which are new; note the handlers that they hold."""
    held: set[int] = set()
    for module in scripts.new_common:
        for value in list(vars(module).values()):
            kind = type(value)  # and no isinstance: some values load a whole library when they are asked anything
            if issubclass(kind, logging.Logger):
                held.add(id(value))
            elif issubclass(kind, logging.LoggerAdapter):
                held.add(id(value.logger))
            elif issubclass(kind, logging.Handler):
                _library_handlers.add(value)
    return held


def _make_known(owner: Logs, logger: logging.Logger) -> None:
    """Let an owner, who is the present one, have a logger that has become common in another's turn."""
    manager: Any = logging.root.manager
    before = manager.loggerDict.get(logger.name)
    manager.loggerDict[logger.name] = logger
    if isinstance(before, logging.Logger):  # made by this job before the library came: from now on both are one
        attributes = vars(before)
        logger.__dict__ = attributes
    else:
        attributes = logger.__dict__ = _as_imported(logger)
        if before is not None:
            manager._fixupChildren(before, logger)
        manager._fixupParents(logger)
    owner.common[logger] = attributes
    owner.own.discard(logger.name)
    owner.mark = _mark()


def _as_imported(logger: logging.Logger) -> _Attributes:
    """Return the attributes that a logger has when its library has been imported, and nothing else was done."""
    present = vars(logger)
    in_table = logger.name in _LOGGERS
    handlers = [
        handler
        for handler in logger.handlers
        if isinstance(handler, logging.NullHandler)
        or handler in _library_handlers
        or (in_table and type(handler) is logging.StreamHandler)
    ]
    configured = in_table or any(handler in _library_handlers for handler in handlers)
    level = _imported_level(logger.name, logger.level) if configured else logging.NOTSET
    return {
        **present,
        "level": level,
        "propagate": logger.propagate if configured else True,
        "disabled": False,
        "handlers": handlers,
        "filters": [],
        "_cache": {},
    }


def _imported_level(name: str, present: int) -> int:
    level = _LOGGERS.get(name, present)
    if level is None:
        word = os.environ.get("TRANSFORMERS_VERBOSITY", "warning").lower()
        known = sys.modules.get("transformers.utils.logging")
        level = getattr(known, "log_levels", {}).get(word, logging.WARNING)
    return present if level is None else level


def _copy_attributes(attributes: _Attributes) -> _Attributes:
    own = {"handlers": list(attributes["handlers"]), "filters": list(attributes["filters"]), "_cache": {}}
    return {**attributes, **own}


def _copy_placeholder(logger: Any) -> Any:
    if not isinstance(logger, logging.PlaceHolder):
        return logger
    other = logging.PlaceHolder.__new__(logging.PlaceHolder)
    other.loggerMap = dict(logger.loggerMap)
    return other


def _stream_handlers(references: list[Any]) -> list[_Attributes]:
    """Return the attributes of every one of these handlers that writes to a stream."""
    return [
        vars(handler)
        for reference in references
        if isinstance(handler := reference(), logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
        and not _reads_stderr(handler)
    ]


def _note_outer(references: list[Any]) -> None:
    """Take note of handlers that are there when a job begins: they write to whoever has the turn."""
    known = {id(attributes) for attributes in _outer}
    _outer.extend(attributes for attributes in _stream_handlers(references) if id(attributes) not in known)


def _reads_stderr(handler: Any) -> bool:
    return isinstance(getattr(type(handler), "stream", None), property)  # as of logging's last resort


def register_entries() -> None:
    """Register this family's entry."""
    add("logging", take_logging, put_logging, copy=copy_logging)
