"""What jobs import, imported once for all of them: in the process from which theirs are forked."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from motet.processes.process_job import ProcessJob


def import_ahead(jobs: Sequence[ProcessJob]) -> None:
    """Import the installed packages that scripts import at their tops.

    Only down to a script's first other statement: what it sets before an import may be meant for that import.
    """
    scripts = [Path(job.spec["target"]) for job in jobs if job.spec and job.spec["kind"] == "script"]
    for path in dict.fromkeys(scripts):
        with contextlib.suppress(OSError, SyntaxError, ValueError):
            for name, parts in _first_imports(path):
                if _is_installed(name) and not any(_is_beside(name, script.parent) for script in scripts):
                    with contextlib.suppress(Exception, SystemExit):
                        module = import_module(name)
                        for part in parts:
                            getattr(module, part, None)  # some import the rest of themselves only then (transformers)


def _first_imports(script: Path) -> list[tuple[str, list[str]]]:
    """Return the modules that a script imports, and the names that it takes from each."""
    found: list[tuple[str, list[str]]] = []
    for statement in ast.parse(script.read_bytes()).body:
        if isinstance(statement, ast.Import):
            found += [(alias.name, []) for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and statement.level == 0 and statement.module:
            found.append((statement.module, [alias.name for alias in statement.names]))
        elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            break
    return [(name, parts) for name, parts in found if name != "__future__"]


def _is_installed(name: str) -> bool:
    """Whether a name is Python's or an installed package's, wherever a script looks it up."""
    first = name.partition(".")[0]
    if first in sys.stdlib_module_names:
        return True
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(first)
        places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
        return any(place.startswith((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))) for place in places)
    return False


def _is_beside(name: str, folder: Path) -> bool:
    """Whether a name is a script's own: of a file or a folder beside it."""
    first = name.partition(".")[0]
    return (folder / first).exists() or (folder / f"{first}.py").exists()
