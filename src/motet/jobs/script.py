"""A script or a module as a job: run as ``python script.py`` or ``python -m module`` would, inside this process."""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
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
        self._at_end: Callable[[], object] = lambda: None
        self._puts_back = True

    def call_at_end(self, call: Callable[[], object]) -> None:
        """Have ``call`` be called at the end, while what belongs to the script can still be found."""
        self._at_end = call

    def leave_sys(self) -> None:
        """Leave what it has set in ``sys``: whoever runs it puts that back."""
        self._puts_back = False

    @property
    def anchor(self) -> Path:
        """A place in the folder in which the script's own modules lie."""
        return self.path

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
        outer_argv, outer_path, outer_main = sys.argv, sys.path, sys.modules["__main__"]
        # New lists, not changed ones: other jobs may hold the old.
        sys.path = [*self._folders(), *outer_path]
        try:
            code, module = self._load()
            sys.argv = [str(module.__file__), *self.argv]
            sys.modules["__main__"] = module
            exec(code, module.__dict__)
        except SystemExit as exit_:
            if exit_.code is not None and exit_.code != 0:
                raise JobExit(self._farewell(exit_.code)) from exit_
        finally:
            self._at_end()
            if self._puts_back:
                sys.argv, sys.path, sys.modules["__main__"] = outer_argv, outer_path, outer_main

    def _folders(self) -> list[str]:
        """Return what comes first in ``sys.path``."""
        return [os.path.dirname(os.path.realpath(self.path))]

    def _load(self) -> tuple[CodeType, ModuleType]:
        """Return the code, and an empty ``__main__`` with the attributes that Python gives the one of a script."""
        code, module = self.compile(), ModuleType("__main__")
        module.__file__ = str(self.path)
        module.__loader__ = SourceFileLoader("__main__", str(self.path))
        module.__dict__.update(__builtins__=builtins, __cached__=None, __annotations__={})
        return code, module

    def _farewell(self, code: object) -> str:
        if isinstance(code, int):
            return f"{self._name} ended with exit status {int(code)}"
        return f"{self._name} ended itself: {code}"

    @property
    def _name(self) -> str:
        return self.path.name


class ModuleScript(Script):
    """A module with its arguments, run as ``python -m module argv...`` would run it.

    Its packages are imported, with ``folders`` first in ``sys.path``; ``__spec__`` and ``__package__`` are the
    module's, so that relative imports work, and ``sys.argv[0]`` is the full path of its file.
    """

    def __init__(self, name: str, argv: Sequence[str] = (), folders: Sequence[str] = ()) -> None:
        self.folders = tuple(folders) or (os.getcwd(),)
        super().__init__(Path(self.folders[0], *name.split(".")), argv)
        self.name = name

    @property
    def anchor(self) -> Path:
        """A place in the folder in which the module's packages lie."""
        return Path(self.folders[0], "__main__.py")

    def __repr__(self) -> str:
        return f"ModuleScript({self.name!r}, {list(self.argv)!r})"

    def compile(self) -> CodeType:
        """Compile without running, after importing the packages that it is in; raise what these imports raise."""
        return _found(self.name)[1]

    def _folders(self) -> list[str]:
        return list(self.folders)

    def _load(self) -> tuple[CodeType, ModuleType]:
        spec, code = _found(self.name)
        module = ModuleType("__main__")
        module.__file__, module.__loader__, module.__package__ = spec.origin, spec.loader, spec.parent
        module.__dict__.update(__builtins__=builtins, __cached__=spec.cached, __spec__=spec, __annotations__={})
        return code, module

    @property
    def _name(self) -> str:
        return self.name


def _found(name: str) -> tuple[ModuleSpec, CodeType]:
    """Return where ``python -m name`` would find its code, and the code; `ImportError` if there is none."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"there is no module {name!r}", name=name)
    if spec.submodule_search_locations is not None:
        if name.endswith(".__main__"):
            raise ImportError(f"{name!r} is a package, and cannot be run")
        try:
            return _found(f"{name}.__main__")
        except ModuleNotFoundError as error:
            if error.name != f"{name}.__main__":
                raise
            raise ImportError(f"{name!r} is a package without a __main__ module, and cannot be run") from None
    code = getattr(spec.loader, "get_code", lambda name: None)(name)
    if code is None or spec.origin is None:
        raise ImportError(f"{name!r} has no Python code, and cannot be run")
    return spec, code
