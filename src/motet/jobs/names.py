"""Names of jobs: what one may look like, and how a sweep's are made from what varies.

A name is one word: it names a folder, stands between commas in ``--order``, and begins each line that a job prints.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from itertools import starmap

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
    """Join ``parts`` to one name (or to '' if nothing usable is left).

    In the middle of a long name stands a hash of the whole: jobs mostly differ at its end.
    """
    name = "-".join(filter(None, parts)).lstrip("._=+-")
    if len(name) <= MAX_NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGITS_OF_HASH]
    kept = MAX_NAME_LENGTH - _DIGITS_OF_HASH - 2
    return f"{name[: kept // 3]}-{digest}-{name[-(kept - kept // 3) :]}"


def names_of(jobs: Sequence[Mapping[str, str]], stems: Sequence[str] = ()) -> list[str]:
    """Return a name for each job: of its stem, if there are stems, and of each of its parts, a key and a label.

    Where names get too long, all are made shorter alike, as far as that leaves apart what was: keys by the dotted path
    before their last word, values by the beginnings and ends that all have, or in their middle; at last by a hash.
    """
    stems = stems or [""] * len(jobs)

    def made(pairs: Sequence[Mapping[str, str]]) -> list[str]:
        return [joined([stem, *starmap(part, given.items())]) for stem, given in zip(stems, pairs, strict=True)]

    def whole(pairs: Mapping[str, str], stem: str) -> int:
        return len("-".join(filter(None, [stem, *starmap(part, pairs.items())])))

    names, shorter = made(jobs), list(jobs)
    num_names = len(set(names))
    for step in (_short_keys, _short_values, _cut_values):
        if all(whole(pairs, stem) <= MAX_NAME_LENGTH for pairs, stem in zip(shorter, stems, strict=True)):
            break
        tried = step(shorter)
        if len(set(made(tried))) == num_names:
            shorter, names = tried, made(tried)
    return names


def _short_keys(jobs: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Leave of ``model.encoder.width`` the last word, where no other key has the same."""
    keys = dict.fromkeys(key for given in jobs for key in given)
    last = [re.split(r"[./@]", key.rstrip("./@"))[-1] for key in keys]
    short = {key: word if last.count(word) == 1 and label(word) else key for key, word in zip(keys, last, strict=True)}
    return [{short[key]: value for key, value in given.items()} for given in jobs]


def _short_values(jobs: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Leave out the words with which all values of a key begin, and those with which they end."""
    shorter: list[dict[str, str]] = [dict(given) for given in jobs]
    for key in dict.fromkeys(key for given in jobs for key in given):
        words = [re.split(r"(?<=[-_+=./])", given[key]) for given in jobs if key in given]
        first, last = _num_alike(words), _num_alike([found[::-1] for found in words])
        for given in shorter:
            if key in given:
                found = re.split(r"(?<=[-_+=./])", given[key])
                kept = found[first : len(found) - last] if first + last < len(found) else found
                given[key] = "".join(kept).rstrip("-_+=./") or given[key]
    return list(shorter)


def _num_alike(words: Sequence[Sequence[str]]) -> int:
    number = 0
    while all(number < len(found) - 1 for found in words) and len({found[number] for found in words}) == 1:
        number += 1
    return number if len(words) > 1 else 0


def _cut_values(jobs: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Cut what is long in its middle, so that a name of so many values has room for each."""
    most = max(map(len, jobs))
    keys = sum(len(label(key)) + 2 for key in dict.fromkeys(key for given in jobs for key in given))
    room = max(6, (MAX_NAME_LENGTH - keys) // max(most, 1))

    def cut(value: str) -> str:
        return value if len(value) <= room else f"{value[: (room - 2) // 3]}..{value[-(room - 2 - (room - 2) // 3) :]}"

    return [{key: cut(value) for key, value in given.items()} for given in jobs]


def unused(name: str, used: Collection[str]) -> str:
    """Return ``name``, or where it is ``used``, the first of ``name-2``, ``name-3``, ... that is not."""
    candidate, number = name, 1
    while candidate in used:
        number += 1
        suffix = f"-{number}"
        candidate = name[: MAX_NAME_LENGTH - len(suffix)] + suffix
    return candidate
