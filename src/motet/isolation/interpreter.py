"""What the interpreter and its standard library keep: arguments, path, streams, environment, warnings, logging."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import sys
import threading
import warnings
from typing import Any

import torch.multiprocessing

from motet.errors import MotetError
from motet.isolation.registry import add

_warnings: Any = warnings
_logging: Any = logging
_torch_multiprocessing: Any = torch.multiprocessing


def _take_streams() -> tuple[Any, ...]:
    return sys.stdin, sys.stdout, sys.stderr


def _put_streams(value: tuple[Any, ...]) -> None:
    sys.stdin, sys.stdout, sys.stderr = value


def _take_hooks() -> tuple[Any, ...]:
    return sys.displayhook, sys.excepthook, sys.unraisablehook, threading.excepthook


def _put_hooks(value: tuple[Any, ...]) -> None:
    sys.displayhook, sys.excepthook, sys.unraisablehook, threading.excepthook = value


def _take_arguments() -> tuple[list[str], list[str]]:
    return sys.argv, sys.path


def _put_arguments(value: tuple[list[str], list[str]]) -> None:
    sys.argv, sys.path = value


def _copy_arguments(value: tuple[list[str], list[str]]) -> tuple[list[str], list[str]]:
    return list(value[0]), list(value[1])


def _take_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # someone removed it: there is nothing to come back to
        return None


def _put_directory(value: str | None) -> None:
    if value is not None:
        try:
            os.chdir(value)
        except OSError as error:
            raise MotetError(f"the working directory of a job is gone: {value} ({error.strerror})") from error


def take_environment() -> dict[Any, Any]:
    """Return the environment, undecoded where the platform lets us: a tenth of the cost."""
    return dict(getattr(os.environ, "_data", os.environ))


def put_environment(value: dict[Any, Any]) -> None:
    """Set and unset the variables that differ, in the process's environment too."""
    present = take_environment()
    for key in present.keys() - value.keys():
        del os.environ[os.fsdecode(key)]
    for key, content in value.items() - present.items():
        os.environ[os.fsdecode(key)] = os.fsdecode(content)


def _take_warnings() -> tuple[Any, ...]:
    return _warnings.filters, _warnings.showwarning, getattr(_warnings, "_showwarnmsg_impl", None)


def _put_warnings(value: tuple[Any, ...]) -> None:
    # The registries of what was shown already are not invalidated: each turn would show every warning again.
    filters, show, show_message = value
    _warnings.filters = filters
    _warnings.showwarning = show
    if show_message is not None:
        _warnings._showwarnmsg_impl = show_message


def _copy_warnings(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return (list(value[0]), *value[1:])


def _take_logging() -> tuple[Any, ...]:
    root = logging.root
    return root.handlers, root.level, root.manager.disable, getattr(_logging, "_warnings_showwarning", None)


def _put_logging(value: tuple[Any, ...]) -> None:
    root = logging.root
    root.handlers, level, disable, captured = value
    if root.level != level:
        root.setLevel(level)
    if root.manager.disable != disable:
        logging.disable(disable)
    _logging._warnings_showwarning = captured


def _copy_logging(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return (list(value[0]), *value[1:])


def _take_gc() -> tuple[bool, tuple[int, int, int]]:
    return gc.isenabled(), gc.get_threshold()


def _put_gc(value: tuple[bool, tuple[int, int, int]]) -> None:
    enabled, threshold = value
    gc.set_threshold(*threshold)
    if enabled:
        gc.enable()
    else:
        gc.disable()


def _take_multiprocessing() -> tuple[str | None, str]:
    return multiprocessing.get_start_method(allow_none=True), _torch_multiprocessing.get_sharing_strategy()


def _put_multiprocessing(value: tuple[str | None, str]) -> None:
    method, strategy = value
    multiprocessing.set_start_method(method, force=True)  # None: nobody has chosen yet
    _torch_multiprocessing.set_sharing_strategy(strategy)


def register_entries() -> None:
    """Register this family's entries."""
    add("streams", _take_streams, _put_streams, near=True)
    add("hooks", _take_hooks, _put_hooks)
    add("sys.argv and sys.path", _take_arguments, _put_arguments, copy=_copy_arguments)
    add("working directory", _take_directory, _put_directory, skip_equal=True, near=True)
    add("environment", take_environment, put_environment, skip_equal=True)
    add("warnings", _take_warnings, _put_warnings, copy=_copy_warnings)
    add("logging", _take_logging, _put_logging, copy=_copy_logging)
    add("gc", _take_gc, _put_gc, skip_equal=True)
    add("multiprocessing", _take_multiprocessing, _put_multiprocessing, skip_equal=True)
