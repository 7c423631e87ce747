"""The source of Python's standard library, as text to learn from: every machine that runs this has it."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType


def python_files() -> tuple[Path, ...]:
    """List the library's top-level modules, by name: about 170 files and 5 MB, the same on every worker."""
    folder = Path(sysconfig.get_path("stdlib"))
    # The modules that hold the build's configuration are data, and differ from machine to machine.
    files = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_sysconfigdata"))
    if not files:
        raise FileNotFoundError(f"no Python source in {folder}: this Python comes without its library's source")
    return tuple(files)


@cache  # for all the library it takes seconds, and one process may train several models on it
def functions(files: tuple[Path, ...]) -> Mapping[tuple[str, str, str], tuple[str, ...]]:
    """Map each function, as (module, class or "", name), to the identifiers that it mentions, in order of appearance.

    Functions of one name in one place (overloads, a getter and its setter) count as one. Nested functions belong to
    the one that holds them. The order depends on the files alone, never on the hashing of strings.
    """
    found: dict[tuple[str, str, str], dict[str, None]] = {}
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some modules hold escapes that a newer parser warns about
            tree = ast.parse(path.read_bytes())
        for class_name, function in _definitions(tree, ""):
            names = found.setdefault((path.stem, class_name, function.name), {})
            names.update(dict.fromkeys(_identifiers(function)))
    return MappingProxyType({key: tuple(names) for key, names in found.items()})


def _definitions(node: ast.AST, class_name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield class_name, child
        elif isinstance(child, ast.ClassDef):
            yield from _definitions(child, child.name)
        elif isinstance(child, ast.If | ast.Try):
            yield from _definitions(child, class_name)


def _identifiers(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg):
            yield node.arg
