"""Names of jobs: what one may look like, and how a sweep's are made from what varies.

A name is one word: it names a folder, stands between commas in ``--order``, and begins each line that a job prints.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from decimal import Decimal

from motet.confidential import is_secret
from motet.errors import UsageError
from motet.suggest import shown

MAX_NAME_LENGTH = 100

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")
_NEGATIVE = re.compile(r"-\.?\d")
_DIGITS_OF_HASH = 8
_LONGEST_PLAIN_FLOAT = 10


def check_name(name: object, where: str = "") -> str:
    """Return ``name`` if it can name a job, else raise a UsageError that begins with ``where``."""
    prefix = f"{where}: " if where else ""
    if not isinstance(name, str):
        raise UsageError(f"{prefix}a job's name must be text, not {shown(name)}")
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{prefix}{shown(name)} cannot name a job: use letters, digits and . _ = + - only, "
            "beginning with a letter or a digit"
        )
    if len(name) > MAX_NAME_LENGTH:
        raise UsageError(f"{prefix}the job's name {shown(name)} has {len(name)} characters; use {MAX_NAME_LENGTH}")
    return name


def is_name(name: str) -> bool:
    """Return whether ``name`` can name a job."""
    return len(name) <= MAX_NAME_LENGTH and _NAME.fullmatch(name) is not None


def label(value: object) -> str:
    """Return a short text for ``value`` made of the characters that names may hold; '' if nothing is left."""
    if isinstance(value, Mapping):
        return "+".join(
            f"{label(key)}={label(entry)}" for key, entry in value.items() if not is_secret(str(key), entry)
        )
    if isinstance(value, list | tuple):
        return "+".join(label(entry) for entry in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return _label_of_float(value)
    text = _UNSAFE.sub("-", str(value)).rstrip("-")
    return text if _NEGATIVE.match(text) else text.lstrip("-")


def _label_of_float(value: float) -> str:
    """Write 1e-05 as 0.00001: names are read by people, and dashes separate their parts."""
    decimal = Decimal(repr(value))
    plain = format(decimal, "f") if decimal.is_finite() and abs(decimal.adjusted()) < _LONGEST_PLAIN_FLOAT else ""
    return plain if 0 < len(plain) <= _LONGEST_PLAIN_FLOAT else repr(value)


def part(key: str, value: str) -> str:
    """Join what varies and its value: ``lr`` and ``0.1`` to ``lr0.1``, ``opt`` and ``adam`` to ``opt=adam``."""
    key = label(key)
    if not key or not value:
        return key or value
    return key + value if key[-1].isalpha() and value[0].isdigit() else f"{key}={value}"


def joined(parts: list[str]) -> str:
    """Join ``parts`` to one name (or to '' if nothing usable is left); long names end in a hash of the whole."""
    name = "-".join(filter(None, parts)).lstrip("._=+-")
    if len(name) <= MAX_NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS_OF_HASH]
    return f"{name[: MAX_NAME_LENGTH - _DIGITS_OF_HASH - 1]}-{digest}"


def unused(name: str, used: Collection[str]) -> str:
    """Return ``name``, or where it is ``used``, the first of ``name-2``, ``name-3``, ... that is not."""
    candidate, number = name, 1
    while candidate in used:
        number += 1
        suffix = f"-{number}"
        candidate = name[: MAX_NAME_LENGTH - len(suffix)] + suffix
    return candidate
