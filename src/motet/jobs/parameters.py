"""What a job was made with, read off its call, for trackers: the arguments of a function, the options of a script."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from motet.jobs.script import Script


def parameters_of(call: Callable[[], object]) -> dict[str, object]:
    """Return the keyword arguments that `functools.partial` holds, or a `Script`'s options; what else there is, not."""
    if isinstance(call, Script):
        return options_of(call.argv)
    found: dict[str, object] = {}
    while isinstance(call, functools.partial):
        found = {**call.keywords, **found}  # an outer partial's arguments win
        call = call.func
    return found


def options_of(argv: Sequence[str]) -> dict[str, object]:
    """Return ``--name value``, ``--name=value`` and ``--flag`` by name; values stay text.

    A word like ``-0.5`` counts as a value. Words that belong to no option are left out.
    """
    found: dict[str, object] = {}
    name: str | None = None
    for word in argv:
        if word.startswith("-") and len(word) > 1 and not _is_number(word):
            name, equals, value = word.lstrip("-").partition("=")
            found[name] = value if equals else True
            if equals:
                name = None
        elif name is not None:
            found[name] = word if found[name] is True else f"{found[name]} {word}"  # several values: --sizes 1 2 3
    found.pop("", None)
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
