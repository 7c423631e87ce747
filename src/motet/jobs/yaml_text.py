"""YAML with line numbers: a text becomes a small tree in which everything knows its line. No code runs.

Only PyYAML's safe scanner and composer are used; no YAML constructor is ever called. What differs from PyYAML,
because it has cost people runs:

- the same key twice in a mapping is an error (PyYAML silently keeps the last);
- plain words mean what YAML 1.2 says: ``1e-3`` is a number, ``010`` is ten, ``12:30`` and ``2026-01-31`` are text;
- an unquoted ``yes``, ``no``, ``on`` or ``off`` as a value is an error, for it is a truth value to some readers of
  YAML and text to others: write ``true``, ``false``, or quotes;
- explicit tags (``!!python/...``, ``!!set``) are errors, except ``!!str``.

Anchors, aliases and ``<<`` merges work.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from motet.errors import UsageError
from motet.suggest import shown

_DEEPEST = 50
_MOST_VALUES = 100_000
_LONGEST_NUMBER = 300

_PLAIN = "plain"  # the tag that our loader gives to every scalar without quotes and without a tag
_TEXT = "tag:yaml.org,2002:str"
_CONTAINERS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")

_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_UNCLEAR = re.compile(r"yes|no|on|off", re.IGNORECASE)
_INTEGER = re.compile(r"[-+]?(\d+|\d{1,3}(_\d{3})+)")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+|0b[01]+")
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Scalar:
    """One value: as it was written (``text``), and what that means (``value``)."""

    line: int
    text: str
    value: str | int | float | bool | None


@dataclass(frozen=True)
class Listing:
    """A YAML sequence."""

    line: int
    items: list[Tree]


@dataclass(frozen=True)
class Mapped:
    """A YAML mapping; keys are text as written, ``lines`` are theirs."""

    line: int
    items: dict[str, Tree]
    lines: dict[str, int]


Tree = Scalar | Listing | Mapped


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader that leaves the meaning of plain words to us."""

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        """Tag each word without quotes and without a tag as such."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _PLAIN
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    # PyYAML's time grows with the square of the depth: it is refused while it is scanned, before anything is composed.

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        """Begin ``[`` or ``{``."""
        super().fetch_flow_collection_start(token)
        if self.flow_level > _DEEPEST:
            raise RecursionError

    def add_indent(self, column: int) -> bool:
        """Begin a block, if ``column`` is further to the right."""
        added = bool(super().add_indent(column))
        if len(self.indents) > _DEEPEST + 1:
            raise RecursionError
        return added


def plain(tree: Tree) -> Any:
    """Return the tree as None, bool, int, float, str, list and dict."""
    if isinstance(tree, Scalar):
        return tree.value
    if isinstance(tree, Listing):
        return [plain(item) for item in tree.items]
    return {key: plain(item) for key, item in tree.items.items()}


def parse_yaml(text: str, name: str) -> Tree | None:
    """Return the tree of the one document in ``text`` (None if there is nothing in it).

    Raises UsageError, beginning with ``name:line:``, for everything that cannot be read.
    """
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise UsageError(_syntax_message(error, name)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UsageError(f"{name}:{line}: the character {error.character!r} is not allowed in YAML") from None
    except RecursionError:
        raise UsageError(f"{name}:{_line_of(loader)}: nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # e.g. "\UFFFFFFFF": a bare ValueError from chr()
        raise UsageError(f"{name}:{_line_of(loader)}: this is not valid YAML: {error}") from None
    return None if node is None else _Grower(name).grow(node, 0)


def _line_of(loader: yaml.SafeLoader | None) -> int:
    return 1 if loader is None else int(loader.get_mark().line) + 1


def _syntax_message(error: yaml.MarkedYAMLError, name: str) -> str:
    mark = error.problem_mark or error.context_mark
    line = 1 if mark is None else mark.line + 1
    problem = error.problem or "it cannot be read"
    if "\\t" in problem:
        problem += "; indent with spaces, not tabs"
    since = f" ({error.context}, line {error.context_mark.line + 1})" if error.context and error.context_mark else ""
    return f"{name}:{line}: this is not valid YAML: {problem}{since}"


class _Grower:
    """Grows a `Tree` from PyYAML's nodes, within bounds: aliases can make a short text endless."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._num_values = 0

    def _error(self, line: int, message: str) -> UsageError:
        return UsageError(f"{self._name}:{line}: {message}")

    def grow(self, node: yaml.Node, depth: int) -> Tree:
        line = node.start_mark.line + 1
        self._num_values += 1
        if depth > _DEEPEST:
            raise self._error(line, "nested too deeply, or within itself")
        if self._num_values > _MOST_VALUES:
            raise self._error(line, f"more than {_MOST_VALUES} values, counting what aliases repeat")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, line)
        if node.tag not in _CONTAINERS:
            raise self._error(line, f"the tag {shown(node.tag)} is not allowed here")
        if isinstance(node, yaml.SequenceNode):
            return Listing(line, [self.grow(item, depth + 1) for item in node.value])
        assert isinstance(node, yaml.MappingNode)
        return self._mapping(node, line, depth)

    def _scalar(self, node: yaml.ScalarNode, line: int) -> Scalar:
        text: str = node.value
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self._error(line, f"{shown(text)} holds half a character (a lone surrogate)") from None
        if node.tag == _TEXT:
            return Scalar(line, text, text)
        if node.tag != _PLAIN:
            raise self._error(line, f"the tag {shown(node.tag)} is not allowed here")
        if _UNCLEAR.fullmatch(text):
            meant = "true" if text.lower() in ("yes", "on") else "false"
            raise self._error(line, f'an unquoted {text} is unclear: write {meant}, or "{text}" for the word')
        return Scalar(line, text, self._meaning(text, line))

    def _meaning(self, text: str, line: int) -> str | int | float | bool | None:
        if text in _WORDS:
            return _WORDS[text]
        integer, based = _INTEGER.fullmatch(text), _BASED.fullmatch(text)
        if (integer or based) and len(text) > _LONGEST_NUMBER:
            raise self._error(line, f"a number of {len(text)} digits is too long; use quotes if it is text")
        if integer:
            return int(text)
        if based:
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            number = float(text)
            return number if math.isfinite(number) else text  # 12e4567 is a piece of a hash, not infinity
        if _NOT_FINITE.fullmatch(text):
            return float(text.replace(".", "", 1))
        return text

    def _mapping(self, node: yaml.MappingNode, line: int, depth: int) -> Mapped:
        own = Mapped(line, {}, {})
        merges: list[tuple[int, Tree]] = []
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag not in (_PLAIN, _TEXT):
                raise self._error(key_line, "a key must be a plain word")
            key = self._key(key_node, key_line)
            merging = key_node.tag == _PLAIN and key == "<<"
            if key in own.lines or (merging and merges):
                first = own.lines.get(key) or merges[0][0]
                raise self._error(key_line, f"{shown(key)} is given twice (first in line {first})")
            value = self.grow(value_node, depth + 1)
            if merging:
                merges.append((key_line, value))
            else:
                own.items[key], own.lines[key] = value, key_line
        for merge_line, tree in merges:
            self._merge(own, tree, merge_line)
        return own

    def _key(self, node: yaml.ScalarNode, line: int) -> str:
        key: str = node.value
        if not key.isprintable() or not key.strip():  # also refuses lone surrogates
            raise self._error(line, f"{shown(key)} cannot be a key")
        return key

    def _merge(self, own: Mapped, tree: Tree, line: int) -> None:
        for source in tree.items if isinstance(tree, Listing) else [tree]:
            if not isinstance(source, Mapped):
                raise self._error(line, "<< takes a mapping or a list of mappings")
            for key, value in source.items.items():
                if key not in own.items:
                    own.items[key], own.lines[key] = value, source.lines[key]
