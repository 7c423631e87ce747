"""Whose global state is there, from turn to turn.

Between two turns nobody looks at most of what is global. So when a job's turn ends, only what Motet's own code depends
on (the entries that are *near*) is taken and put back to what it was outside of jobs. The rest stays as the job has
left it, and is taken when somebody else comes: another job, or code that is not ours. Where the same job goes on, it
is not (ADR 0011).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from motet.isolation.registry import Saved, put, put_near, take_all, take_near


class Owner(Protocol):
    """Who has a state of its own. ``saved`` holds it while somebody else's is there."""

    saved: Saved | None


class Present:
    """Who owns what is there: whoever made this, or the owner that entered last."""

    def __init__(self) -> None:
        self._outside: Saved | None = None  # what belongs there outside of turns; None: it is there
        self._owner: Owner | None = None
        self._near: Mapping[str, Any] | None = None  # the owner's, as it left; None where that could not be told

    def enter(self, owner: Owner) -> None:
        """Let ``owner`` find what it left; afterwards comes `leave`."""
        if self._outside is None:
            self._outside = now = take_all()
        else:
            assert self._near is not None, "the last one has not left"
            if owner is self._owner:
                put_near(self._near, self._outside.values)
                return
            now = self._put_away()
        assert owner.saved is not None
        self._owner, self._near = owner, None
        saved, owner.saved = owner.saved, None
        put(saved, now.values, self._outside.values)

    def leave(self) -> None:
        """Let Motet's own code find what it depends on. `enter` or `settle` come next."""
        assert self._outside is not None
        self._near = None
        self._near = take_near()
        put_near(self._outside.values, self._near)

    def settle(self) -> None:
        """Let code that is not ours find all that it would find without Motet; it may change it."""
        if self._outside is None:
            return
        outside = self._outside
        now: Mapping[str, Any] = {}  # all is put where it cannot be told what is there
        try:
            if self._near is not None:
                now = self._put_away().values
        finally:
            self._outside = self._owner = self._near = None
            put(outside, now, outside.values if now else None)

    def forget(self, owner: Owner) -> None:
        """Take note that ``owner`` will not come again: what it left is nobody's."""
        owner.saved = None
        if self._owner is owner:
            self._owner = None

    def _put_away(self) -> Saved:
        """Return what is there, and give it to its owner to keep."""
        now = take_all(self._near)
        if self._owner is not None:
            self._owner.saved = now
        return now
