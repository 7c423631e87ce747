"""Words for messages: the nearest right name, and a value shown in few characters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 60
_MOST_LISTED = 10


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the one of ``names`` that ``name`` was probably meant to be, or None; case counts for little."""
    by_lower: dict[str, str] = {}
    for known in names:
        by_lower.setdefault(known.lower(), known)
    close = difflib.get_close_matches(name[:_LONGEST].lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known one, else the known ones, else ''."""
    names = list(known)
    near = nearest(given, names)
    if near is not None:
        return f"; did you mean {near!r}?"
    if 0 < len(names) <= _MOST_LISTED:
        return f"; known: {', '.join(names)}"
    return ""


def shown(value: object) -> str:
    """Return ``value`` as Python writes it, on one line, cut to a readable length."""
    text = repr(value[: 2 * _LONGEST]) if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
