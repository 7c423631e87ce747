"""torchrun's own options without importing torch: help and mistakes are answered at once, not after seconds.

The parser is the one of the torch that is installed: its function is found in torch's source and run by itself, with
the few definitions that it uses. Where that does not work out, torch is imported, and the parser is the same.
"""

from __future__ import annotations

import argparse
import ast
import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HOME, _NAME = "torch.distributed.run", "get_args_parser"


def torchrun_options() -> list[argparse.Action]:
    """Return torchrun's own options, but for those that say what to run and how to run a single script."""
    left_out = {"help", "module", "no_python", "run_path", "print_completion"}  # the last since torch 2.14.1
    # argparse has no public way to take over options; its own `parents=` does the same as this.
    return [action for action in torchrun_parser()._actions if action.option_strings and action.dest not in left_out]


def torchrun_parser() -> argparse.ArgumentParser:
    """Return a new parser of torchrun's options."""
    return _maker()()


@functools.cache
def _maker() -> Callable[[], argparse.ArgumentParser]:
    try:
        make: Callable[[], argparse.ArgumentParser] = _definition(_HOME, _NAME)
        make()
    except Exception:  # another way of writing it in some version of torch
        from torch.distributed.run import get_args_parser as make
    return make


def _definition(module: str, name: str) -> Any:
    """Return what ``name`` is in a module of torch's: a function or a class, made without importing the module."""
    tree = ast.parse(_source(module))
    body: list[ast.stmt] = []
    names: dict[str, Any] = {"__name__": module}
    definitions, used = _with_what_it_uses(tree, name)
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        if all(one.split(".")[0] in sys.stdlib_module_names for one in modules):
            body.append(node)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) in used:
                    names[alias.asname or alias.name] = _definition(node.module or "", alias.name)
    code = compile(ast.Module([*body, *definitions], type_ignores=[]), f"<{module}>", "exec")
    exec(code, names)
    return names[name]


def _with_what_it_uses(tree: ast.Module, name: str) -> tuple[list[ast.stmt], set[str]]:
    """Return a definition with those of the same module that it uses, in their order, and all names in these."""
    known = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    wanted, used = [name], set[str]()
    for each in wanted:  # grows meanwhile
        found = {node.id for node in ast.walk(known[each]) if isinstance(node, ast.Name)}
        wanted += [one for one in found if one in known and one not in wanted]
        used |= found
    return [node for each, node in known.items() if each in wanted], used


def _source(module: str) -> str:
    first, *rest = module.split(".")
    spec = importlib.util.find_spec(first)  # of a package itself: that imports nothing
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent.joinpath(*rest).with_suffix(".py").read_text(encoding="utf-8")
