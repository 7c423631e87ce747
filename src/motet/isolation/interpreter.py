"""What the interpreter and the standard library keep: arguments, path, streams, environment, names, warnings."""

from __future__ import annotations

import builtins
import gc
import multiprocessing
import operator
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import torch.multiprocessing

from motet.errors import MotetError
from motet.isolation.registry import add

_MISSING = object()
_warnings: Any = warnings
_torch_multiprocessing: Any = torch.multiprocessing
_os_umask = os.umask


_plain_builtins = tuple(vars(builtins).items())
_plain_names, _plain_values = zip(*_plain_builtins, strict=True)


class _Builtins(dict[str, Any]):
    """What a job has made of ``builtins``. Compared by identity: among the values may be anything."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__  # type: ignore[assignment]


def take_builtins() -> dict[str, Any] | None:
    """Return the names that are everywhere; None while they are as Motet found them."""
    present = vars(builtins)
    if len(present) == len(_plain_values) and all(map(operator.is_, present.values(), _plain_values)):
        return None
    return _Builtins(present)


def put_builtins(value: dict[str, Any] | None) -> None:
    """Bring them back; None: as Motet found them."""
    present = vars(builtins)
    wanted = dict(_plain_builtins) if value is None else value
    for name in list(present):
        if name not in wanted:
            present.pop(name, None)
    for name, content in wanted.items():
        if present.get(name, _MISSING) is not content:
            present[name] = content


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
        os.environ.pop(os.fsdecode(key), None)  # a job's thread may have unset it, too
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


def _take_gc() -> tuple[bool, tuple[int, int, int]]:
    return gc.isenabled(), gc.get_threshold()


def _put_gc(value: tuple[bool, tuple[int, int, int]]) -> None:
    enabled, threshold = value
    gc.set_threshold(*threshold)
    if enabled:
        gc.enable()
    else:
        gc.disable()


def _take_limits() -> tuple[int, float | None, int]:
    return sys.getrecursionlimit(), socket.getdefaulttimeout(), sys.get_int_max_str_digits()


def _put_limits(value: tuple[int, float | None, int]) -> None:
    recursion, timeout, digits = value
    sys.setrecursionlimit(recursion)
    socket.setdefaulttimeout(timeout)
    sys.set_int_max_str_digits(digits)


# What it is cannot be read without setting it, so it is followed from where a job first sets it (`set_umask`).
_umask: int | None = None
_umask_before = 0


def set_umask(original: Callable[[int], int], mask: int) -> int:
    """Set the mask of new files for whoever runs; from now on each job has its own."""
    global _umask, _umask_before
    before = original(mask)
    if _umask is None:
        _umask_before = before
    _umask = mask & 0o777
    return before


def _take_umask() -> int | None:
    return _umask


def _put_umask(value: int | None) -> None:
    if _umask is not None:
        set_umask(_os_umask, _umask_before if value is None else value)


def _take_multiprocessing() -> tuple[str | None, str]:
    return multiprocessing.get_start_method(allow_none=True), _torch_multiprocessing.get_sharing_strategy()


def _put_multiprocessing(value: tuple[str | None, str]) -> None:
    method, strategy = value
    multiprocessing.set_start_method(method, force=True)  # None: nobody has chosen yet
    _torch_multiprocessing.set_sharing_strategy(strategy)


def register_entries() -> None:
    """Register this family's entries."""
    add("streams", _take_streams, _put_streams, restore_between_turns=True)
    add("builtins", take_builtins, put_builtins, skip_equal=True, restore_between_turns=True)
    add("hooks", _take_hooks, _put_hooks)
    add("sys.argv and sys.path", _take_arguments, _put_arguments, copy=_copy_arguments)
    add("working directory", _take_directory, _put_directory, skip_equal=True, restore_between_turns=True)
    add("environment", take_environment, put_environment, skip_equal=True)
    add("warnings", _take_warnings, _put_warnings, copy=_copy_warnings)
    add("limits", _take_limits, _put_limits, skip_equal=True, restore_between_turns=True)
    add("umask", _take_umask, _put_umask, skip_equal=True, restore_between_turns=True)
    add("gc", _take_gc, _put_gc, skip_equal=True)
    add("multiprocessing", _take_multiprocessing, _put_multiprocessing, skip_equal=True)
