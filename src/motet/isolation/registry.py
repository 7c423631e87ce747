"""Entries, and how all of them are taken and put back."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from motet.errors import MotetError, UsageError

_MISSING = object()


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    take: Callable[[], Any]
    put: Callable[[Any], None]
    module: str | None
    fresh: Callable[[], Any] | None
    copy: Callable[[Any], Any] | None
    skip_equal: bool
    invalidates_later: bool
    restore_between_turns: bool


_entries: dict[str, _Entry] = {}
# From one put to the next the present live objects stay the same; this holds the number of the latest `Saved` of them.
_period: list[int] = []
_numbers = itertools.count()


class Saved:
    """What `take_all` or `exchange` put away: one owner's global state, to be put back once.

    Values may be live objects. They belong to the latest `Saved` that took them (``period`` holds its number); an
    earlier one is copied when it is put back, so that no two owners ever share them.
    """

    __slots__ = ("number", "period", "values")

    def __init__(self, values: dict[str, Any], period: list[int] | None = None) -> None:
        self.values = values
        self.number = next(_numbers)
        self.period: list[int] = [] if period is None else period
        self.period[:] = (self.number,)

    def copy(self) -> Saved:
        """Return an independent state with the same content, for another job to begin with."""
        values = dict(self.values)
        for name, value in values.items():
            entry = _entries.get(name)
            if entry is not None and entry.copy is not None:
                try:
                    values[name] = entry.copy(value)
                except Exception as error:
                    _raise_failed(name, "copied", error)
        return Saved(values)


def register(
    name: str,
    take: Callable[[], Any],
    put: Callable[[Any], None],
    *,
    module: str | None = None,
    fresh: Callable[[], Any] | None = None,
    copy: Callable[[Any], Any] | None = None,
) -> None:
    """Keep one more piece of global state apart for each job.

    ``take()`` returns its present value, ``put(value)`` brings a value back; both are called at every turn, so they
    should take microseconds. With ``module`` the entry is inactive until that module is imported; ``fresh()`` then
    gives the value that a job finds whose state was saved earlier (without it, the job finds what is there). ``take``
    may return a live object that ``put`` binds again, if ``copy(value)`` returns an independent one for each new job.

    Register before the run begins, or inside the job. Raises `UsageError` if the name is taken.

    Example: a library that keeps its settings in a global dictionary::

        motet.isolation.register(
            "mylib",
            take=lambda: dict(sys.modules["mylib"].settings),
            put=lambda value: sys.modules["mylib"].settings.update(value),
            module="mylib",
        )
    """
    add(name, take, put, module=module, fresh=fresh, copy=copy)


def add(
    name: str,
    take: Callable[[], Any],
    put: Callable[[Any], None],
    *,
    module: str | None = None,
    fresh: Callable[[], Any] | None = None,
    copy: Callable[[Any], Any] | None = None,
    skip_equal: bool = False,
    invalidates_later: bool = False,
    restore_between_turns: bool = False,
) -> None:
    """Register an entry; ``skip_equal`` if its values are plain, so that an equal one need not be put.

    ``invalidates_later`` if putting a value changes what later entries hold, so that these are put even if they were
    equal. ``restore_between_turns`` if Motet's own code depends on it, so that it is put back between any two turns
    (see `swap_out`).
    """
    assert not (restore_between_turns and copy), "what is put back more than once must not be a live object"
    if not isinstance(name, str) or not name:
        raise UsageError(f"an isolation entry needs a name, got {name!r}")
    if name in _entries:
        raise UsageError(
            f"isolation entry {name!r} is registered already; choose another name, "
            f"or call motet.isolation.unregister({name!r}) first"
        )
    for role, function in (("take", take), ("put", put)):
        if not callable(function):
            raise UsageError(f"isolation entry {name!r}: {role} must be callable, got {function!r}")
    _entries[name] = _Entry(name, take, put, module, fresh, copy, skip_equal, invalidates_later, restore_between_turns)


def unregister(name: str) -> None:
    """Forget an entry: from now on its state is common to all jobs."""
    if name not in _entries:
        raise UsageError(f"no isolation entry {name!r}; there are: {', '.join(_entries)}")
    del _entries[name]


def registered() -> tuple[str, ...]:
    """Return the names of all entries, in the order in which they are put back."""
    return tuple(_entries)


def take_all() -> Saved:
    """Put away the present state, changing nothing. Raises `MotetError`, naming the entry, where one fails."""
    modules = sys.modules
    values: dict[str, Any] = {}
    name = ""
    try:
        for name, entry in _entries.items():
            if entry.module is None or entry.module in modules:
                values[name] = entry.take()
    except Exception as error:
        _raise_failed(name, "taken", error)
    return Saved(values, _period)


def put_all(saved: Saved) -> None:
    """Bring a state back. Where an entry fails, all others are put first; then raises `MotetError`, naming it."""
    _put(saved, {})


def exchange(saved_next: Saved) -> Saved:
    """Put the present state away and ``saved_next`` in its place; return what was put away.

    Cheaper than `take_all` and `put_all`: what is equal already is left alone. If taking fails nothing was changed.
    """
    now = take_all()
    _put(saved_next, now.values)
    return now


def swap_out(outside: Saved) -> Saved:
    """Put the present state away, and of ``outside`` only what Motet's own code depends on in its place.

    Half of an exchange: between two turns nobody looks at the rest. Either `swap_in` comes next, or `restore_outside`.
    """
    now = take_all()
    values, present = outside.values, now.values
    settled = True
    for name, entry in list(_entries.items()):
        if entry.restore_between_turns and name in values and not (settled and present[name] == values[name]):
            try:
                entry.put(values[name])
            except Exception as error:
                _raise_failed(name, "put back", error)
            settled = settled and not entry.invalidates_later
    return now


def swap_in(saved_next: Saved, left: Saved, outside: Saved) -> None:
    """Put ``saved_next`` in the place of what `swap_out` has left there: it returned ``left``, given ``outside``."""
    _put(saved_next, left.values, outside.values)


def restore_outside(outside: Saved, left: Saved | None) -> None:
    """Put the rest of ``outside`` back, which `swap_out` did not; all of it where ``left`` is not known."""
    if left is None:
        _put(outside, {})
    else:
        _put(outside, left.values, outside.values)


def _put(saved: Saved, now: dict[str, Any], between_now: dict[str, Any] | None = None) -> None:
    """Put a state; ``now`` is the present one, ``between_now`` that of what is restored between turns."""
    global _period
    if saved.period != [saved.number]:
        own = saved.copy()
        saved.values, saved.period = own.values, own.period
    values = saved.values
    _period = []
    saved.period.clear()
    if between_now is None:
        between_now = now
    modules = sys.modules
    failed: tuple[str, Exception] | None = None
    settled = True
    for name, entry in list(_entries.items()):
        try:
            value = values[name]
            if entry.skip_equal and settled and (between_now if entry.restore_between_turns else now)[name] == value:
                continue
        except KeyError:  # unknown to one of the two: its module has been imported meanwhile, or it is new
            if entry.module is not None and entry.module not in modules:
                continue
            value = values.get(name, _MISSING)
        try:
            if value is _MISSING:
                if entry.fresh is None:
                    continue
                value = values[name] = entry.fresh()
            settled = settled and not entry.invalidates_later
            entry.put(value)
        except Exception as error:
            failed = failed or (name, error)
    if failed is not None:
        _raise_failed(failed[0], "put back", failed[1])


def _raise_failed(name: str, verb: str, error: Exception) -> NoReturn:
    raise MotetError(
        f"isolation entry {name!r} could not be {verb}: {type(error).__name__}: {error}. "
        f"Correct it, or leave it out with motet.isolation.unregister({name!r})"
    ) from error
