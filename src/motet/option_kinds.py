"""Kinds of options: what a value may be, how it reads on the command line, and what a message says it takes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from motet.suggest import nearest, shown

LARGEST_SEED = 2**53 - 1  # what every reader of JSON keeps whole

_FOR_EVER = 1e12  # seconds
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Kind:
    """What one option may be.

    ``takes``: the end of a message, after "takes". ``accept`` returns a value in its one canonical form, or raises
    ValueError. ``parse`` reads it from the command line's text, ValueError likewise. ``choices`` are all there are.
    ``switch``: given without a value. ``repeats``: may be given several times, and is a tuple.
    """

    takes: str
    accept: Callable[[Any], Any]
    parse: Callable[[str], Any] = str
    choices: tuple[str, ...] | None = None
    switch: bool = False
    repeats: bool = False


def option(
    default: Any,
    kind: Kind,
    help: str,
    *,
    flag: str | None = None,
    metavar: str | None = None,
    of: Sequence[str] = ("run",),
) -> Any:
    """Return a dataclass field that is an option of the command: everything that is known of it, written once.

    ``flag``: its name there, where that is not the field's. ``of``: the subcommands that take it.
    """
    metadata = {"kind": kind, "help": help, "flag": flag, "metavar": metavar, "of": of}
    return dataclasses.field(default=default, metadata=metadata)


def flag_of(field: dataclasses.Field[Any]) -> str:
    """Return the name of a field's option on the command line, with its dashes."""
    return f"--{field.metadata['flag'] or field.name.replace('_', '-')}"


def refusal(field: dataclasses.Field[Any], name: str, given: object) -> str:
    """Return the message about a wrong value of an option that the user knows as ``name``."""
    kind: Kind = field.metadata["kind"]
    near = nearest(given, kind.choices or ()) if isinstance(given, str) else None
    meant = f"; did you mean {near!r}?" if near is not None else ""
    return f"{name} takes {kind.takes}; it was given {shown(given)}{meant}"


def one_of(*choices: str) -> Kind:
    """Return the kind of an option that is one of a few words."""

    def accept(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError
        return value

    return Kind(_listed(choices), accept, choices=choices)


def whole(least: int, most: int | None = None, what: str = "a whole number") -> Kind:
    """Return the kind of an option that is a whole number."""

    def accept(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least or (most or value) < value:
            raise ValueError
        return value

    return Kind(f"{what}, at least {least}" if most is None else f"{what} from {least} to {most}", accept, int)


def _accept_number_or_auto(value: Any) -> int | str:
    return "auto" if value == "auto" else _number.accept(value)


def _accept_seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _FOR_EVER:
        raise ValueError
    return float(value)


def parse_duration(text: str) -> float:
    """Return seconds: of ``90`` (seconds), ``90s``, ``30m``, ``2h``, ``1d``, ``1h30m``; ValueError for other text."""
    words = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text)
    if not words or "".join(number + unit for number, unit in words) != text or (len(words) > 1 and not words[-1][1]):
        raise ValueError
    return sum(float(number) * _UNITS[unit or "s"] for number, unit in words)


def _accept_text(value: Any) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError
    return value


def _accept_names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError
    return tuple(_accept_text(name) for name in value)


def _accept_order(value: Any) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else _accept_names(value)


def _accept_switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _accept_workers(value: Any) -> str | tuple[int, ...]:
    if value == "dedicated":
        return "dedicated"
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError
    return tuple(whole(0).accept(number) for number in value)


def _parse_number_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _parse_workers(text: str) -> str | list[int]:
    return text if text == "dedicated" else [int(word) for word in text.split(",")]


def _listed(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


_number = whole(1, what="a number of jobs")
JOBS_OR_AUTO = Kind(f"{_number.takes}, or auto", _accept_number_or_auto, _parse_number_or_auto)
SECONDS = Kind("a time above 0 such as 90s, 30m, 2h or 1h30m", _accept_seconds, parse_duration)
NAME = Kind("a name", _accept_text)
NAMES = Kind("names", _accept_names, repeats=True)
FOLDER = Kind("a folder, such as {job_dir} or runs/{name}", _accept_text)
ORDER = Kind("names of jobs, such as a,b,a,c, or round-robin", _accept_order)
SWITCH = Kind("True or False", _accept_switch, switch=True)
SEED = whole(0, LARGEST_SEED)
WORKERS = Kind("numbers of workers, as in 0,2, or dedicated", _accept_workers, _parse_workers)
