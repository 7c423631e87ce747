"""Whose a module is: that of everyone in the process, or that of the script job which imported it.

- Everyone's are the standard library, torch, what holds arrays and tensors for all, frameworks whose state has entries
  of its own here, and every other package that is installed (in ``site-packages``, ``dist-packages``, or a folder with
  the package's ``.dist-info``): importing them once for each job would cost seconds and memory, and classes of two
  copies are strangers to each other.
- A script's own are all others: its folder, a package beside it, editable installs, ``PYTHONPATH``, zip files.
- A script's own, too, are installed packages that keep one state for the whole program (`ONE_STATE`), and those that
  were imported with them and hold something of theirs. See ADR 23.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import sysconfig
from collections.abc import Callable, Collection, Iterable
from importlib.abc import Loader
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import FunctionType, ModuleType

# Everyone's, wherever they lie (a torch built from source is an editable install).
_EVERYONES = frozenset(
    {
        *("motet", "torch", "torchgen", "functorch", "triton", "numpy", "greenlet", "yaml", "__main__", "__mp_main__"),
        *("torchvision", "torchaudio", "torchdata", "torchao", "torchmetrics", "scipy", "pandas", "sklearn"),
        *("lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning", "accelerate", "transformers"),
        *("huggingface_hub", "datasets", "tokenizers", "safetensors", "peft", "tqdm", "rich", "mlflow", "wandb"),
        *("tensorboard", "tensorflow", "jax", "jaxlib", "keras"),
    }
)

# Installed packages that keep one state for the whole program, by design: what is configured, registered, parsed or
# started once. A process for each job would give each job its own.
ONE_STATE = frozenset(
    {
        *("hydra", "hydra_plugins", "omegaconf", "hydra_zen", "absl", "ml_collections", "gin", "sacred", "dynaconf"),
        *("mmengine", "mmcv", "yacs", "fvcore", "iopath"),
        *("loguru", "structlog", "logbook", "dllogger", "clearml", "neptune", "comet_ml", "aim"),
    }
)

_LIBRARIES = tuple(
    {os.path.join(os.path.realpath(p), "") for p in (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))}
)
_SUFFIXES = tuple(EXTENSION_SUFFIXES)


def top_of(name: str) -> str:
    """Return the name of the package at the top."""
    return name.partition(".")[0]


def is_everyones(top: str) -> bool:
    """Return whether a package is everyone's by its name alone."""
    return top in _EVERYONES or top in sys.stdlib_module_names or top.startswith("_cython_")


def is_installed(top: str, module: ModuleType) -> bool:
    """Return whether a package lies where packages are installed. Of several places, a program's own one decides."""
    places = _places(module)
    return bool(places) and all(_is_library(place, top) for place in places)


def has_place(module: ModuleType) -> bool:
    """Return whether a module came from a file; otherwise a program has made it, or it is built in."""
    return bool(_places(module))


def is_own_code(file: str) -> bool:
    """Return whether code in this file is a program's own, not a library's."""
    return not file.startswith("<") and not _is_library(os.path.abspath(file), "")


def holds(module: ModuleType, tops: Collection[str]) -> bool:
    """Return whether a module's globals hold a module, class, function or object of one of these packages."""
    return any(top_of(_origin(value)) in tops for value in list(vars(module).values()))


def _origin(value: object) -> str:
    kind = type(value)  # and no isinstance: some values load a whole library when they are asked anything
    if issubclass(kind, ModuleType):
        name: object = vars(value).get("__name__")
    elif issubclass(kind, (type, FunctionType)):
        name = vars(value).get("__module__") if issubclass(kind, type) else value.__module__
    else:
        name = kind.__module__
    return name if isinstance(name, str) else ""


def _places(module: ModuleType) -> tuple[str, ...]:
    file = getattr(module, "__file__", None)
    with contextlib.suppress(OSError):  # a relative path, in a folder that is gone
        if isinstance(file, str):
            return (os.path.abspath(file),)
        folders: Iterable[object] = getattr(module, "__path__", ())  # without __init__.py there are folders only
        return tuple(os.path.join(os.path.abspath(folder), "") for folder in folders if isinstance(folder, str))
    return ()


def _is_library(place: str, top: str) -> bool:
    parts = place.split(os.sep)
    if "site-packages" in parts or "dist-packages" in parts or place.startswith(_LIBRARIES):
        return True
    if not top:
        return False
    root = place.rpartition(f"{os.sep}{top}{os.sep}")[0] or os.path.dirname(place)
    return top in _installed_into(root)


@functools.cache
def _installed_into(folder: str) -> frozenset[str]:
    """Return what packages an installer has put into a folder (``pip install --target``), by its own records."""
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for record in Path(folder).glob("*.dist-info/RECORD"):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                lines = record.read_text("utf-8").splitlines()
                found.update(line.partition(",")[0].partition("/")[0].removesuffix(".py") for line in lines)
    return frozenset(found)


_compiled: dict[str, ModuleType] = {}


class _CompiledOnce(Loader):
    """Finds a compiled module that another job has loaded: a process can initialize it once only.

    Everything around it is each job's own. It stands in ``sys.meta_path`` while a script has its turn.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Find it again, if what would be loaded is the same file."""
        known = _compiled.get(name)
        if known is None:
            return None
        found = PathFinder.find_spec(name, path)  # type: ignore[arg-type]
        if found is None or found.origin != known.__file__:
            return None
        return ModuleSpec(name, self, origin=found.origin)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that there is."""
        return _compiled[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it has run."""


_finder = _CompiledOnce()


def note_compiled(name: str, module: ModuleType) -> None:
    """Take note of a compiled module among a job's own."""
    file = getattr(module, "__file__", None)
    if isinstance(file, str) and file.endswith(_SUFFIXES):
        _compiled.setdefault(name, module)


def find_compiled(wanted: bool) -> None:
    """Let the present program find compiled modules that others have loaded, or no longer."""
    finders: list[object] = sys.meta_path  # type: ignore[assignment]
    if wanted and _finder not in finders:
        finders.insert(0, _finder)
    elif not wanted and _finder in finders:
        finders.remove(_finder)


def sort_out(
    new: Iterable[str], is_known: Callable[[str], bool], own_tops: Collection[str], *, by_script: bool
) -> set[str]:
    """Return which of the ``new`` modules belong to the program that imported them, and not to everyone.

    ``is_known`` says whether a package is everyone's already; ``own_tops`` are the program's own already. A
    module without a place that a script has made is its own; that of anyone else is there for all to see.
    """
    tops: set[str] = set(own_tops)
    undecided: dict[str, list[str]] = {}
    own: set[str] = set()
    everyones: set[str] = set()
    for name in new:
        top = top_of(name)
        if top in tops:
            own.add(name)
        elif top in everyones:
            pass
        elif top in undecided:
            undecided[top].append(name)
        elif is_everyones(top) or is_known(top):
            everyones.add(top)
        elif _is_by_itself(top, name, by_script):
            tops.add(top)
            own.add(name)
        else:
            undecided[top] = [name]
    again = bool(tops)
    while again:  # what was imported with them and holds a part of them
        again = False
        for top, names in list(undecided.items()):
            if any(holds(sys.modules[name], tops) for name in names if name in sys.modules):
                tops.add(top)
                own.update(undecided.pop(top))
                again = True
    return own


def _is_by_itself(top: str, name: str, by_script: bool) -> bool:
    module = sys.modules.get(top) or sys.modules.get(name)
    if top in ONE_STATE:
        return True
    if not isinstance(module, ModuleType):
        return False
    return not is_installed(top, module) if has_place(module) else by_script
