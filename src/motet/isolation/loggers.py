"""Loggers below the root: those that frameworks configure when they are imported, and where log lines go.

A ``logging.StreamHandler`` holds the stream that was ``sys.stderr`` when it was made. Frameworks make theirs when they
are imported: before the run (it is the terminal) or in the turn of whichever job comes first. Either way each job's
lines are its own.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO

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

_Logger = tuple[int, bool, bool, tuple[logging.Handler, ...]]


def take_loggers() -> dict[str, _Logger]:
    """Return level, propagation, whether it is off, and handlers of every framework's logger."""
    known = logging.root.manager.loggerDict
    found: dict[str, _Logger] = {}
    for name in _LOGGERS:
        logger = known.get(name)
        if isinstance(logger, logging.Logger):
            found[name] = (logger.level, logger.propagate, logger.disabled, tuple(logger.handlers))
    return found


def put_loggers(value: dict[str, _Logger]) -> None:
    """Bring them back. A framework that was imported since is found as its import leaves it, with its handlers."""
    for name, present in take_loggers().items():
        wanted = value.get(name) or (_imported_level(name, present[0]), present[1], False, present[3])
        if wanted != present:
            logger = logging.getLogger(name)
            level, logger.propagate, logger.disabled, handlers = wanted
            logger.handlers[:] = handlers
            if logger.level != level:
                logger.setLevel(level)


def _imported_level(name: str, present: int) -> int:
    level = _LOGGERS[name]
    if level is None:
        word = os.environ.get("TRANSFORMERS_VERBOSITY", "warning").lower()
        known = sys.modules.get("transformers.utils.logging")
        level = getattr(known, "log_levels", {}).get(word, logging.WARNING)
    return present if level is None else level


_Attributes = dict[str, Any]

# What `_stream_handlers` found last, and when: by how many handlers there were, and the newest. Their attributes, not
# they: none is kept alive for good, and nothing but what is asked for is looked at (torch alone makes three dozen).
_seen: tuple[int, Any] = (0, None)
_stream_handlers_found: tuple[_Attributes, ...] = ()


def _stream_handlers() -> tuple[_Attributes, ...]:
    """Return the attributes of every handler that writes to a stream."""
    global _seen, _stream_handlers_found
    references = _logging._handlerList  # weak ones, to all handlers that there are; a new one comes last
    newest = references[-1] if references else None
    if _seen[0] != len(references) or _seen[1] is not newest:
        _seen = len(references), newest
        _stream_handlers_found = tuple(
            vars(handler)
            for reference in references
            if isinstance(handler := reference(), logging.StreamHandler)
            and not isinstance(handler, logging.FileHandler)
            and not _reads_stderr(handler)
        )
    return _stream_handlers_found


def take_streams() -> tuple[tuple[_Attributes, ...], list[Any]]:
    """Return where every handler writes that writes to a stream."""
    handlers = _stream_handlers()
    return handlers, [attributes.get("stream") for attributes in handlers]


def put_streams(value: tuple[tuple[_Attributes, ...], list[Any]]) -> None:
    """Let the handlers write there again. One that was made since writes on to where it was made to."""
    for attributes, stream in zip(*value, strict=True):
        if attributes.get("stream") is not stream:
            attributes["stream"] = stream


def redirect(outer: tuple[TextIO | None, ...], stdout: TextIO, stderr: TextIO) -> None:
    """Let handlers that write to one of the ``outer`` streams (stdout, stderr, stdout, ...) write to these."""
    for attributes in _stream_handlers():
        for number, stream in enumerate(outer):
            if stream is not None and attributes.get("stream") is stream:
                attributes["stream"] = stderr if number % 2 else stdout
                break


def _reads_stderr(handler: Any) -> bool:
    return isinstance(getattr(type(handler), "stream", None), property)  # as of logging's last resort


def register_entries() -> None:
    """Register this family's entries."""
    add("frameworks' loggers", take_loggers, put_loggers, skip_equal=True)
    add("log streams", take_streams, put_streams, skip_equal=True)
