"""``__main__`` and the modules from a script's own folder.

Two scripts, or one script as two jobs, each import a ``helper.py`` and set things in it. Alone, each would have a
process and so a copy of its own. Here the modules that a script imported from its own folder leave ``sys.modules``
with it when its turn ends, and come back with it.

- A job is a script once ``sys.modules["__main__"]`` is no longer the module that it began with, or from the start if
  `prepare_script` said so. Functions share all modules with whoever starts the run, as functions do.
- Own are modules that were imported during the script's turns, whose file lies in its folder (that of its
  ``__main__``, or ``sys.path[0]``), not in an environment's or the standard library's, and whose top-level package
  nobody else had imported (a part of Motet or torch that is first needed inside a turn belongs to everyone).
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from motet.isolation.registry import Saved, add

_NAME = "__main__ and own modules"
_COMMON = frozenset({"motet", "torch", "numpy", "greenlet", "yaml", "__main__", "__mp_main__"})
_LIBRARIES = tuple(
    {os.path.join(os.path.realpath(p), "") for p in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))}
)


@dataclass(frozen=True, slots=True)
class Modules:
    """One owner's view of ``sys.modules``: what it has beyond the common ones, and what of those it does not see."""

    main: ModuleType | None
    is_script: bool = False
    own: dict[str, ModuleType] = field(default_factory=dict)
    hidden: dict[str, ModuleType] = field(default_factory=dict)


_present: Modules | None = None
_common: set[str] = set()
_last_seen: tuple[int, str, int] = (0, "", 0)


def take_modules() -> Modules:
    """Return the present owner's view. Looks at the modules one by one only if some were added since."""
    global _present
    main = sys.modules.get("__main__")
    before = _present or Modules(main)
    is_script = before.is_script or main is not before.main
    own = before.own
    if _mark() != _last_seen:
        own = _note_new_modules(main, before) if is_script else own
        _common.intersection_update(sys.modules.keys() | before.hidden.keys())
        _common.update(sys.modules.keys() - own.keys() - before.hidden.keys())
        _note_mark()
    if main is not before.main or is_script != before.is_script or own is not before.own or _present is None:
        _present = replace(before, main=main, is_script=is_script, own=own)
    assert _present is not None
    return _present


def note_modules() -> None:
    """Note what the present script has imported. Afterwards, without its ``__main__`` and path, nobody could tell."""
    take_modules()


def put_modules(value: Modules) -> None:
    """Replace the present owner's view of ``sys.modules`` by another's."""
    global _present
    present = take_modules()
    if value is present:
        return
    modules = sys.modules
    for name in present.own:
        modules.pop(name, None)
    modules.update(present.hidden)
    for name in value.hidden:
        modules.pop(name, None)
    modules.update(value.own)
    if value.main is not None:
        modules["__main__"] = value.main
    _present = value
    _note_mark()


def prepare_script(saved: Saved, path: str | Path) -> None:
    """Let the job that begins with ``saved`` be the script at ``path``.

    Modules that are loaded already, but that this script would find under the same name in its own folder, are
    hidden from it: it imports its own.
    """
    folder = Path(os.path.abspath(path)).parent
    modules: Modules = saved.values[_NAME]
    tops = {name.partition(".")[0] for name in sys.modules} - _COMMON
    shadowed = {
        top
        for top in tops
        if ((folder / f"{top}.py").is_file() or (folder / top).is_dir())
        and top in sys.modules
        and not _in_library(_place(sys.modules[top]))
    }
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in shadowed}
    saved.values[_NAME] = replace(modules, is_script=True, hidden={**modules.hidden, **hidden})


def _mark() -> tuple[int, str, int]:
    """Return what changes when modules are added or replaced: the dictionary keeps the order of insertion."""
    name = next(reversed(sys.modules), "")
    return len(sys.modules), name, id(sys.modules.get(name))


def _note_mark() -> None:
    global _last_seen
    _last_seen = _mark()


def _note_new_modules(main: ModuleType | None, before: Modules) -> dict[str, ModuleType]:
    own = {name: sys.modules[name] for name in before.own if name in sys.modules}
    folders = _script_folders(main)
    new = [name for name in sys.modules if name not in own and (name not in _common or name in before.hidden)]
    for name in new:  # in the order of import: a package before its modules
        top = name.partition(".")[0]
        shared = top in _COMMON or (top in _common and top not in before.hidden and top not in own)
        module = sys.modules[name]
        if not shared and isinstance(module, ModuleType) and _is_own(_place(module), folders):
            own[name] = module
    return own


def _script_folders(main: ModuleType | None) -> tuple[str, ...]:
    candidates: list[str] = []
    if main is not None and isinstance(file := getattr(main, "__file__", None), str):
        candidates.append(os.path.dirname(os.path.abspath(file)))
    if sys.path and isinstance(sys.path[0], str):
        with contextlib.suppress(FileNotFoundError):  # relative, to a working directory that is gone
            candidates.append(os.path.abspath(sys.path[0]))
    return tuple({os.path.join(folder, "") for c in candidates for folder in (c, os.path.realpath(c))})


def _place(module: ModuleType) -> str | None:
    """Return where a module came from; a package without ``__init__.py`` has folders only."""
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return os.path.abspath(file)
    folders: Iterable[str] = getattr(module, "__path__", ())
    first = next(iter(folders), None)
    return os.path.join(os.path.abspath(first), "") if isinstance(first, str) else None


def _in_library(place: str | None) -> bool:
    """Tell whether a module is built in, or belongs to the standard library or an environment."""
    if place is None:
        return True
    parts = place.split(os.sep)
    return "site-packages" in parts or "dist-packages" in parts or place.startswith(_LIBRARIES)


def _is_own(place: str | None, folders: tuple[str, ...]) -> bool:
    return place is not None and place.startswith(folders) and not _in_library(place)


def register_entries() -> None:
    """Register this family's entry."""
    add(_NAME, take_modules, put_modules)
