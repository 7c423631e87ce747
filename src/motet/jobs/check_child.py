"""The short-lived child of `motet.jobs.check_specs`: imports functions, compiles scripts and modules, trains nothing.

Run as ``python -m motet.jobs.check_child`` with specs as JSON on its standard input. It writes a line of JSON before
and after each spec, so that the parent knows which one ended the interpreter. What imported modules print goes to the
standard error.
"""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from motet.jobs.script import ModuleScript, Script
from motet.jobs.spec import JobSpec, add_paths, import_target
from motet.parent import end_with_parent
from motet.suggest import did_you_mean


def main() -> None:
    """Check the specs on stdin, report on stdout, and end this process at once."""
    end_with_parent()
    specs = [JobSpec.from_json(data) for data in json.load(sys.stdin)]
    report = _take_standard_streams()
    report.write("\n")  # whatever was printed while this module was imported ends here
    imported: dict[str, Callable[..., Any] | str] = {}
    for number, spec in enumerate(specs):
        _report(report, {"checking": number})
        _report(report, {"checked": number, "problem": problem_of(spec, imported)})
    os._exit(0)  # threads or exit handlers that an import left behind must not keep us


def _take_standard_streams() -> TextIO:
    """Return the real stdout; from now on stdout goes to stderr (also from C), and stdin is empty."""
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return report


def _report(report: TextIO, message: Mapping[str, object]) -> None:
    report.write(json.dumps(message) + "\n")
    report.flush()


def problem_of(spec: JobSpec, imported: dict[str, Callable[..., Any] | str]) -> str | None:
    """Return what keeps ``spec`` from starting, in one line, or None. ``imported`` remembers what imports gave."""
    if isinstance(spec.arguments, list):
        return _problem_of_module(spec) if spec.kind == "module" else _problem_of_script(spec)
    found = imported.get(spec.target)
    if found is None:
        found = imported[spec.target] = _import(spec)
    return found if isinstance(found, str) else _problem_of_arguments(found, spec.target, spec.arguments)


def _problem_of_script(spec: JobSpec) -> str | None:
    name = os.path.basename(spec.target)
    try:
        Script(spec.target).compile()
    except SyntaxError as error:
        line = "" if error.lineno is None else f", line {error.lineno}"
        return f"{name}{line}: {type(error).__name__}: {error.msg}"
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    except Exception as error:
        return f"{name} does not compile: {_last_line(error)}"
    return None


def _problem_of_module(spec: JobSpec) -> str | None:
    add_paths(spec.paths)
    try:
        ModuleScript(spec.target).compile()
    except ModuleNotFoundError as error:
        if error.name is not None and f"{spec.target}.".startswith(f"{error.name}."):
            return f"there is no module {error.name!r}{_near_module(error.name)}"
        return f"importing the packages of {spec.target} failed: {_last_line(error)}{_place(error)}"
    except SyntaxError as error:
        return f"{spec.target} does not compile: {_last_line(error)}{_place(error)}"
    except BaseException as error:  # also SystemExit: the code of its packages is the user's
        ours = type(error) is ImportError and "cannot be run" in str(error)
        if ours:
            return str(error)
        return f"importing the packages of {spec.target} failed: {_last_line(error)}{_place(error)}"
    return None


def _import(spec: JobSpec) -> Callable[..., Any] | str:
    """Return the function, or the problem with it."""
    module, _, attributes = spec.target.partition(":")
    try:
        found = import_target(spec.target, spec.paths)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return f"there is no module {error.name!r}{_near_module(error.name)}"
        return f"importing {module} failed: {_last_line(error)}{_place(error)}"
    except AttributeError as error:
        if module in sys.modules:  # the import went well: it is the function that is missing
            return _missing_attribute(module, attributes)
        return f"importing {module} failed: {_last_line(error)}{_place(error)}"
    except BaseException as error:  # also SystemExit, KeyboardInterrupt: the code is the user's
        return f"importing {module} failed: {_last_line(error)}{_place(error)}"
    return found if callable(found) else f"{spec.target} is not callable; it is of type {type(found).__name__}"


def _near_module(name: str) -> str:
    package, _, last = name.rpartition(".")
    folders = getattr(sys.modules.get(package), "__path__", None) if package else None
    known = [info.name for info in pkgutil.iter_modules(folders)]
    hint = did_you_mean(last, known)
    return hint if "did you mean" in hint else ""


def _missing_attribute(module: str, attributes: str) -> str:
    found: Any = sys.modules[module]
    path = module
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            public = [name for name in dir(found) if not name.startswith("_") and callable(getattr(found, name, None))]
            return f"{path} has no {attribute!r}{did_you_mean(attribute, public)}"
        found, path = getattr(found, attribute), f"{path}.{attribute}"
    return f"{path} cannot be read twice"


def _last_line(error: BaseException) -> str:
    """Return the exception as the last line of its traceback would, on one line."""
    return " ".join("".join(traceback.format_exception_only(error)[-1:]).split())


def _place(error: BaseException) -> str:
    """Return the user's file and line in which ``error`` arose; syntax errors name theirs themselves."""
    if isinstance(error, SyntaxError):
        return f" ({error.filename}, line {error.lineno})" if error.filename and error.lineno else ""
    ours = (os.path.dirname(os.path.abspath(__file__)), "<frozen ", os.path.dirname(pkgutil.__file__) + "/importlib")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _problem_of_arguments(function: Callable[..., Any], target: str, arguments: Mapping[str, object]) -> str | None:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some built-in functions have none
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = signature.parameters.values()
    named = [parameter.name for parameter in parameters if parameter.kind in by_name]
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [] if open_ended else [name for name in arguments if name not in named]
    if unknown:
        hint = did_you_mean(unknown[0], [name for name in named if name not in arguments])
        return f"{target} takes no argument {unknown[0]!r}{hint or '; it takes none' * (not named)}"
    missing = [
        parameter.name
        for parameter in parameters
        if parameter.kind in by_name and parameter.default is parameter.empty and parameter.name not in arguments
    ]
    if missing:
        plural = len(missing) > 1
        names, them = ", ".join(missing), "them" if plural else "it"
        return f"{target} needs the argument{'s' * plural} {names}; give {them} in with:"
    try:
        signature.bind(**arguments)
    except TypeError as error:
        return f"{target} cannot take these arguments: {error}"
    return None


if __name__ == "__main__":
    main()
