"""Python callables on their way from a program to the workers that it starts.

A function is sent by its name: the workers import it from where it was defined. What a program defines in its own
file (``__main__``) is imported by running that file under the name ``__mp_main__``, as `multiprocessing` does; what a
notebook defines has no file and is sent by value, for which ``cloudpickle`` must be installed.

A parcel is code. It goes through a private file which the launcher makes for its own workers and removes; a run
directory never holds one.
"""

from __future__ import annotations

import functools
import pickle
import runpy
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from motet.errors import UsageError

_kept: list[ModuleType] = []


def pack(calls: Mapping[str, Callable[[], object]]) -> bytes:
    """Return ``calls`` as bytes for `unpack` in a worker; `UsageError` names what cannot be sent, and the remedy."""
    module, file = _main()
    try:
        import cloudpickle
    except ImportError:
        cloudpickle = None
    packed: dict[str, bytes] = {}
    needs_main = False
    for name, call in calls.items():
        local = _function(call).__module__ == "__main__"
        try:
            if local and module is None and file is None:
                raise pickle.PicklingError("it was defined interactively, where a worker cannot import it from")
            packed[name] = pickle.dumps(call)
            needs_main |= local or b"__main__" in packed[name]
        except Exception as error:  # whatever the arguments' own classes raise
            if cloudpickle is None:
                raise UsageError(
                    f"job {name!r}: {call!r} cannot be sent to the workers: {error}. Define the function at the top "
                    "level of a .py file and import it from there (functools.partial gives it arguments), or "
                    "install cloudpickle"
                ) from None
            packed[name] = _by_value(cloudpickle, name, call)
    content = {"path": list(sys.path), "main": (module, file) if needs_main else None, "calls": packed}
    return pickle.dumps(content)


def unpack(parcel: bytes) -> dict[str, Callable[[], object]]:
    """Return the callables that `pack` was given. Imports the program's modules and, if need be, the program."""
    content = pickle.loads(parcel)
    sys.path[:] = content["path"]
    if content["main"] is not None:
        _import_main(*content["main"])
    return {name: pickle.loads(call) for name, call in content["calls"].items()}


def _function(call: object) -> Any:
    """Return what a `functools.partial`, or several around each other, calls in the end."""
    while isinstance(call, functools.partial):
        call = call.func
    return call if hasattr(call, "__module__") else type(call)


def _by_value(cloudpickle: Any, name: str, call: object) -> bytes:
    try:
        return cloudpickle.dumps(call)  # type: ignore[no-any-return]
    except Exception as error:
        raise UsageError(f"job {name!r}: {call!r} cannot be sent to the workers: {error}") from None


def _main() -> tuple[str | None, str | None]:
    """Return the module name (``python -m name``) and the file of the running program, as far as it has them."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return (spec.name if spec is not None else None), getattr(main, "__file__", None)


def _import_main(module: str | None, file: str | None) -> None:
    """Make the program's definitions those of ``__main__``; its ``if __name__ == "__main__":`` part does not run."""
    if module is not None:
        names = runpy.run_module(module, run_name="__mp_main__", alter_sys=True)
    else:
        assert file is not None
        names = runpy.run_path(file, run_name="__mp_main__")
    stand_in = ModuleType("__mp_main__")
    stand_in.__dict__.update(names)
    _kept.append(sys.modules["__main__"])  # a module that nobody holds would lose its names
    sys.modules["__main__"] = sys.modules["__mp_main__"] = stand_in
