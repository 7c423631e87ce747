"""A script as a job: run as ``python script.py`` would run it, inside this process."""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType


class JobExit(RuntimeError):
    """A script ended itself by ``sys.exit`` with something else than 0."""


class Script:
    """A script with its arguments; calling it runs it to its end.

    It finds what ``python path argv...`` would give it: ``sys.argv``, its own folder first in ``sys.path``, and a
    module of its own as ``sys.modules['__main__']``, so that what it defines can be pickled while it runs.
    `runpy` is not used: it takes ``__main__`` away too early and sets ``__spec__`` apart from plain Python.

    The three are put back at the end. While several scripts take turns, the isolation swaps them at each switch.
    """

    def __init__(self, path: Path | str, argv: Sequence[str] = ()) -> None:
        self.path = Path(os.path.abspath(path))  # now: a job may change the working directory
        self.argv = tuple(argv)
        self.at_end: Callable[[], object] | None = None  # called while what belongs to the script can still be told

    def __repr__(self) -> str:
        return f"Script({str(self.path)!r}, {list(self.argv)!r})"

    def compile(self) -> CodeType:
        """Compile without running; raise SyntaxError, ValueError or OSError as Python would."""
        with io.open_code(str(self.path)) as file:
            source = file.read()
        # dont_inherit: the __future__ imports of this module are not the script's.
        return compile(source, str(self.path), "exec", dont_inherit=True)

    def __call__(self) -> None:
        """Run the script; raise `JobExit` if it calls ``sys.exit`` with an error, and whatever else it raises."""
        code = self.compile()
        module = self._main_module()
        outer_argv, outer_path, outer_main = sys.argv, sys.path, sys.modules["__main__"]
        # New lists, not changed ones: other jobs may hold the old.
        sys.argv = [str(self.path), *self.argv]
        sys.path = [os.path.dirname(os.path.realpath(self.path)), *outer_path]
        sys.modules["__main__"] = module
        try:
            exec(code, module.__dict__)
        except SystemExit as exit_:
            if exit_.code is not None and exit_.code != 0:
                raise JobExit(self._farewell(exit_.code)) from exit_
        finally:
            if self.at_end is not None:
                self.at_end()
            sys.argv, sys.path, sys.modules["__main__"] = outer_argv, outer_path, outer_main

    def _main_module(self) -> ModuleType:
        """Return an empty ``__main__`` with the attributes that Python gives the one of a script."""
        module = ModuleType("__main__")
        module.__file__ = str(self.path)
        module.__loader__ = SourceFileLoader("__main__", str(self.path))
        module.__dict__.update(__builtins__=builtins, __cached__=None, __annotations__={})
        return module

    def _farewell(self, code: object) -> str:
        if isinstance(code, int):
            return f"{self.path.name} ended with exit status {int(code)}"
        return f"{self.path.name} ended itself: {code}"
