"""``__main__`` and the modules that are a script's own.

Two scripts, or one script as two jobs, each import a ``helper.py`` and set things in it. Alone, each would have a
process and so a copy of its own. Here the modules that belong to a script (`motet.isolation.ownership` says which)
leave ``sys.modules`` with it when its turn ends, and come back with it.

- A job is a script once ``sys.modules["__main__"]`` is no longer the module that it began with, or from the start if
  `prepare_script` said so. Functions share all modules with whoever starts the run, as functions do.
- What would be a script's own if a script had imported it, but was imported by someone else (the program that starts
  the run, a job that is a function), stays with them: no script sees it, each imports a copy of its own.

A job's threads may import at any moment: ``sys.modules`` is only looked through in copies, which are made at once.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

from motet.isolation import ownership
from motet.isolation.ownership import top_of
from motet.isolation.registry import Saved, add

_NAME = "__main__ and own modules"


@dataclass(frozen=True, slots=True)
class Modules:
    """One owner's view of ``sys.modules``: what it has beyond the common ones.

    ``beside`` are the packages in a script's folder: it finds these, whatever is installed under the same name.
    """

    main: ModuleType | None
    is_script: bool = False
    own: dict[str, ModuleType] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()


_present: Modules | None = None
_common: set[str] = set()
_common_tops: set[str] = set()
_of_others: dict[str, ModuleType] = {}  # of those that are not scripts; in `sys.modules` while none has its turn
_hidden: dict[str, ModuleType] = {}  # common ones that the present script does not see
_last_seen: tuple[int, str, int] = (0, "", 0)
new_common: list[ModuleType] = []  # for who needs to know, and empties it


def take_modules() -> Modules:
    """Return the present owner's view. Looks at the modules one by one only if some were added since."""
    global _present
    main = sys.modules.get("__main__")
    before = _present or Modules(main)
    is_script = before.is_script or main is not before.main
    own = before.own
    if _mark() != _last_seen:
        mark = _mark()
        own = _note_new_modules(before, is_script)
        _note_mark(mark)
    if main is not before.main or is_script != before.is_script or own is not before.own or _present is None:
        _present = replace(before, main=main, is_script=is_script, own=own)
    assert _present is not None
    return _present


def note_modules() -> None:
    """Note what the present script has imported. Afterwards, without its ``__main__`` and path, nobody could know."""
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
    if _hidden:
        modules.update(_hidden)
        _hidden.clear()
    if value.is_script:
        for name in _of_others:
            modules.pop(name, None)
        if clashing := value.beside & _common_tops:
            _hidden.update((name, modules[name]) for name in list(modules) if top_of(name) in clashing)
            for name in _hidden:
                modules.pop(name, None)
    else:
        modules.update(_of_others)
    modules.update(value.own)
    if value.main is not None:
        modules["__main__"] = value.main
    ownership.find_compiled(value.is_script)
    _present = value
    _note_mark(_mark())


def prepare_script(saved: Saved, path: str | Path) -> None:
    """Let the job that begins with ``saved`` be the script at ``path``."""
    folder = Path(os.path.abspath(path)).parent
    beside = {entry.stem for entry in folder.glob("*.py")} | {
        entry.parent.name for entry in folder.glob("*/__init__.py")
    }
    modules: Modules = saved.values[_NAME]
    saved.values[_NAME] = replace(
        modules, is_script=True, beside=frozenset(top for top in beside if not ownership.is_everyones(top))
    )


def is_script() -> bool:
    """Return whether the present owner is a script."""
    return _present is not None and _present.is_script


def own_names() -> set[str]:
    """Return the packages that are the present script's own."""
    return {top_of(name) for name in (_present.own if _present is not None else ())}


def is_common(top: str) -> bool:
    """Return whether a package has been imported, and is everyone's."""
    return top in _common_tops or ownership.is_everyones(top)


def _mark() -> tuple[int, str, int]:
    """Return what changes when modules are added or replaced: the dictionary keeps the order of insertion."""
    while True:
        try:
            name = next(reversed(sys.modules), "")
        except RuntimeError:  # a thread has imported something in between
            continue
        return len(sys.modules), name, id(sys.modules.get(name))


def _note_mark(mark: tuple[int, str, int]) -> None:
    global _last_seen
    _last_seen = mark


def _note_new_modules(before: Modules, is_script: bool) -> dict[str, ModuleType]:
    """Sort out what is new in ``sys.modules``; return the present owner's own."""
    global _of_others
    modules = sys.modules.copy()
    own_before = before.own if is_script else _of_others
    own = {name: modules[name] for name in own_before if name in modules}
    new = [
        name  # in the order of import: a package before its modules
        for name in modules
        if name not in own and (name not in _common or name in _hidden or (is_script and top_of(name) in before.beside))
    ]
    found = ownership.sort_out(
        new,
        lambda top: top in _common_tops and not (is_script and top in before.beside),
        {top_of(name) for name in own},
        by_script=is_script,
    )
    for name in found:
        module = modules.get(name)
        if isinstance(module, ModuleType):
            own[name] = module
            ownership.note_compiled(name, module)
    new_common.extend(modules[name] for name in new if name not in own and isinstance(modules[name], ModuleType))
    _common.intersection_update(modules.keys() | _hidden.keys())
    _common.update(name for name in modules if name not in own)
    _common_tops.clear()
    _common_tops.update(top_of(name) for name in _common)
    if is_script:
        return own
    _of_others = own
    return before.own


def register_entries() -> None:
    """Register this family's entry."""
    add(_NAME, take_modules, put_modules)
