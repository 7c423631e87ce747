"""One entry of a jobs file: what to run (`read_entry`), and with which arguments (`to_spec`)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motet.config import Compress
from motet.errors import UsageError
from motet.jobs.names import label
from motet.jobs.place import check_env, found_from
from motet.jobs.spec import (
    JobSpec,
    Kind,
    check_compress,
    check_module,
    check_target,
    check_turns,
    find_script,
    last_part,
)
from motet.jobs.yaml_text import Listing, Mapped, Scalar, Tree, plain
from motet.suggest import did_you_mean, shown

_KEYS = ("call", "with", "script", "module", "args", "turns", "compress", "cwd", "env")
_FORMS: dict[Kind, str] = {"call": "'module:function'", "script": "a path", "module": "'package.module'"}


@dataclass(frozen=True)
class Source:
    """The jobs file that is being read: its name as given, and where its scripts and modules are looked for."""

    name: str
    current_directory: str = field(default_factory=os.getcwd)

    @property
    def folder(self) -> str:
        """The jobs file's own folder, absolute."""
        return os.path.dirname(os.path.abspath(self.name))

    def where(self, line: int) -> str:
        """Return file and line, as every message begins."""
        return f"{self.name}:{line}"

    def error(self, line: int, message: str) -> UsageError:
        """Return an error that names file and line."""
        return UsageError(f"{self.where(line)}: {message}")

    def mapping(self, tree: Tree, what: str) -> Mapped:
        """Return ``tree`` if it is a mapping, else raise."""
        if not isinstance(tree, Mapped):
            raise self.error(tree.line, f"{what} must be a mapping (key: value), not {shown(plain(tree))}")
        return tree

    def check_keys(self, mapping: Mapped, known: tuple[str, ...], what: str) -> None:
        """Raise if ``mapping`` has a key that is not ``known``."""
        for key, line in mapping.lines.items():
            if key not in known:
                raise self.error(line, f"{what} has no key {shown(key)}{did_you_mean(key, known)}")


@dataclass(frozen=True)
class Entry:
    """One mapping under ``jobs:`` or ``sweep:``, its keys checked, its arguments not yet."""

    line: int
    kind: Kind
    target: str
    arguments: Tree | None
    turns: int | None
    compress: Compress | None = None
    cwd: str | None = None
    env: dict[str, str] | None = None

    @property
    def label(self) -> str:
        """The script's or function's name, in the characters of a job's name."""
        if self.kind == "module":
            return label(last_part(self.target))
        return label(Path(self.target).stem if self.kind == "script" else self.target.rpartition(":")[2])


def is_empty(tree: Tree | None) -> bool:
    """Return whether nothing was written: no value, null, or an empty mapping or list."""
    if isinstance(tree, Scalar):
        return tree.value is None
    return tree is None or not tree.items


def read_entry(source: Source, tree: Tree, what: str, line: int) -> Entry:
    """Check one mapping's keys, its target and its turns; ``what`` names it in messages."""
    mapping = source.mapping(tree, what)
    source.check_keys(mapping, _KEYS, what)
    given: list[Kind] = [key for key in _FORMS if key in mapping.items]
    if len(given) != 1:
        problem = f"both {given[0]} and {given[1]}" if given else "neither call nor script nor module"
        raise source.error(line, f"{what} has {problem}; give one of them")
    kind = given[0]
    own, other = ("with", "args") if kind == "call" else ("args", "with")
    if other in mapping.items:
        raise source.error(mapping.lines[other], f"{what}: {other} does not go with {kind}; use {own}")
    target = mapping.items[kind]
    if not isinstance(target, Scalar) or not isinstance(target.value, str) or not target.value:
        raise source.error(mapping.lines[kind], f"{what}: {kind} must be {_FORMS[kind]}, not {shown(plain(target))}")
    where = f"{source.where(target.line)}: {what}"
    if kind == "script":
        found = find_script(target.value, source.folder, where)
    else:
        found = (check_target if kind == "call" else check_module)(target.value, where)
    turns = None
    if "turns" in mapping.items:
        value = plain(mapping.items["turns"])
        # Nothing after "turns:" is a slip, not "unknown".
        turns = check_turns("nothing" if value is None else value, f"{source.where(mapping.lines['turns'])}: {what}")
    compress = None
    if "compress" in mapping.items:
        value = plain(mapping.items["compress"])
        where = f"{source.where(mapping.lines['compress'])}: {what}"
        compress = check_compress("nothing" if value is None else value, where)
    cwd, env = _cwd(source, mapping, what), _env(source, mapping, what)
    return Entry(line, kind, found, mapping.items.get(own), turns, compress, cwd, env)


def _cwd(source: Source, mapping: Mapped, what: str) -> str | None:
    if "cwd" not in mapping.items:
        return None
    value, where = plain(mapping.items["cwd"]), f"{source.where(mapping.lines['cwd'])}: {what}"
    return found_from("" if value is None else value, source.folder, where)


def _env(source: Source, mapping: Mapped, what: str) -> dict[str, str] | None:
    """Return the variables, numbers as they are written; true, false and null would be guesses."""
    if "env" not in mapping.items:
        return None
    env: dict[str, str] = {}
    for name, tree in source.mapping(mapping.items["env"], f"{what}: env").items.items():
        if not isinstance(tree, Scalar) or tree.value is None or isinstance(tree.value, bool):
            message = f"{what}: env sets {name} to text or a number, not {shown(plain(tree))}; put it in quotes"
            raise source.error(tree.line, message)
        env[name] = tree.text
    check_env(env, f"{source.where(mapping.lines['env'])}: {what}")
    return env


def to_spec(source: Source, name: str, entry: Entry, arguments: Mapping[str, Tree] | None = None) -> JobSpec:
    """Return the entry's spec, with ``arguments`` in place of the entry's own where they are given."""
    # The jobs file's folder first: the same file describes the same jobs wherever it is read.
    folders = tuple(dict.fromkeys((source.folder, source.current_directory)))
    resolved: dict[str, Any] | list[str]
    if entry.kind == "call":
        if arguments is None:
            arguments = {} if is_empty(entry.arguments) else _mapping_of(source, entry)
        resolved = {key: plain(tree) for key, tree in arguments.items()}
    else:
        resolved = _argv(source, entry.arguments) if arguments is None else _flags(source, arguments)
    paths = () if entry.kind == "script" else folders
    where = source.where(entry.line)
    more = (entry.compress, entry.cwd, entry.env)
    return JobSpec(name, entry.kind, entry.target, resolved, entry.turns, paths, where, *more)


def _mapping_of(source: Source, entry: Entry) -> Mapping[str, Tree]:
    assert entry.arguments is not None
    return source.mapping(entry.arguments, "with").items


def _argv(source: Source, tree: Tree | None) -> list[str]:
    if tree is None or is_empty(tree):
        return []
    if isinstance(tree, Mapped):
        return _flags(source, tree.items)
    if isinstance(tree, Listing):
        return [_word(source, item, "args") for item in tree.items]
    if not isinstance(tree.value, str):
        raise source.error(tree.line, f"args must be a mapping, a string or a list, not {shown(tree.value)}")
    try:
        return shlex.split(tree.value)
    except ValueError as error:
        raise source.error(tree.line, f"args {shown(tree.value)} cannot be split into words: {error}") from None


def _flags(source: Source, items: Mapping[str, Tree]) -> list[str]:
    return [message for key, tree in items.items() for message in _flag(source, key, tree)]


def _flag(source: Source, key: str, tree: Tree) -> list[str]:
    if any(character.isspace() for character in key):
        raise source.error(tree.line, f"args has one key for each argument; {shown(key)} holds a space")
    flag = key if key.startswith("-") else f"--{key}"
    if isinstance(tree, Listing):
        return [flag, *(_word(source, item, flag) for item in tree.items)]
    if isinstance(tree, Scalar) and (tree.value is None or isinstance(tree.value, bool)):
        return [flag] if tree.value else []
    value = _word(source, tree, flag)
    # argparse reads "--low -1e-3" as two options, and "-n=1" as the value "=1".
    return [f"{flag}={value}"] if value.startswith("-") and flag.startswith("--") else [flag, value]


def _word(source: Source, tree: Tree, what: str) -> str:
    if not isinstance(tree, Scalar) or tree.value is None:
        raise source.error(tree.line, f"{what}: a script takes words and numbers, not {shown(plain(tree))}")
    return tree.text
