"""Which versions of torch and Python Motet runs on, and every inner name of theirs that it leans on.

Motet works at the seams of DDP and torch elastic, and puts back state for which torch has no public functions. What it
needs there that no version promises is in two tables: `motet.torch_names.NEEDED`, without which it cannot run, and the
features here, which only some versions have. A path reads ``module:object.attribute``, with ``(parameter)`` for one
that a function takes.

A new torch is checked by `missing` in a second (``tests/unit/test_torch_versions.py``). The test also finds names in
the code that are in no table, so whoever uses another one enters it here.

Inner names of packages that are optional (trackers, Optuna, Lightning) are asked for where they are used.
"""

from __future__ import annotations

import dis
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from motet.errors import UsageError
from motet.torch_names import NEEDED, NEEDED_WITH_CUDA, NEEDED_WITHOUT_CONTEXTS

OLDEST, NEWEST = (2, 11), (2, 15)  # of those that the suite passes on: docs/reference/tested-with.md
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True)
class Feature:
    """What only some versions have: where it is found, since which torch, and what is done without it."""

    path: str
    since: str
    without: str

    @functools.cached_property
    def there(self) -> bool:
        """Whether what is installed has it. Asked once a process: it does not come and go."""
        return found(self.path)


BATCHED_GRAD_COPY = Feature(
    "torch.nn.parallel:DistributedDataParallel.__init__(batched_grad_copy)",
    since="2.12",
    without="DDP copies gradients into buckets one by one",
)
CONFIG_PER_CONTEXT = Feature(
    "torch.utils._config_module:ContextVar",
    since="2.12",
    without="torch's own settings are the whole process's: entries of the isolation keep those of Dynamo and Inductor "
    "apart for each job, and checkpoints are written with the user's options for torch.save",
)
RECOMPILES_ISOLATED = Feature(
    "torch._dynamo.eval_frame:_next_isolate_recompiles_id",
    since="2.13",
    without="jobs that compile the same function share what was compiled: its limit of recompiles, and which shapes "
    "count as dynamic",
)
LAZY_CONNECTIONS = Feature(
    "torch.distributed:ProcessGroupGloo.create_device(lazy_init)",
    since="any",
    without="every group of gloo's joins each worker to every other, Motet's own ones, too",
)
STORAGE_SWAP = Feature(
    "torch:UntypedStorage._swap_data_ptr_",
    since="2.12",
    without="equal frozen weights of several jobs are held by each of them",
)
LAZY_BUCKETS = Feature(
    "torch.nn.parallel:DistributedDataParallel.__init__(lazy_bucket_allocation)",
    since="2.15",
    without="DDP's buckets stay where they are",
)
MANUAL_FINALIZATION = Feature(
    "torch.nn.parallel:DistributedDataParallel.finalize_backward",
    since="2.15",
    without="DDP finalizes every backward by itself",
)
PROFILER_PAUSES = Feature(
    "torch._C._autograd:_toggle_collection_dynamic",
    since="any",
    without="the profile of one job holds the others' operators as well",
)
NUMPY_WINDOW = Feature(
    "numpy.random.mtrand:_rand._bit_generator",
    since="any",
    without="NumPy's global generator is copied at every turn, which takes 50 times as long",
)
SHOW_WARNING = Feature("warnings:_showwarnmsg_impl", since="any", without="there is nothing to keep apart")
LOGGED_WARNINGS = Feature("logging:_warnings_showwarning", since="any", without="there is nothing to keep apart")
ENVIRONMENT = Feature(
    "os:environ._data", since="any", without="variables are copied decoded, which takes ten times as long"
)
FEATURES = (
    BATCHED_GRAD_COPY,
    CONFIG_PER_CONTEXT,
    RECOMPILES_ISOLATED,
    LAZY_CONNECTIONS,
    STORAGE_SWAP,
    LAZY_BUCKETS,
    MANUAL_FINALIZATION,
    PROFILER_PAUSES,
    NUMPY_WINDOW,
    SHOW_WARNING,
    LOGGED_WARNINGS,
    ENVIRONMENT,
)


def found(path: str) -> bool:
    """Return whether what ``path`` names is there. Imports its module; makes nothing."""
    module, _, rest = path.partition(":")
    rest, _, parameter = rest.partition("(")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a module will go some day is not the user's concern
            owner: object = importlib.import_module(module)
    except ImportError:
        return False
    for name in rest.split("."):
        if not hasattr(owner, name):
            return not parameter and name in _assigned(owner)
        owner = getattr(owner, name)
    return not parameter or parameter.rstrip(")") in _parameters(owner)


def _parameters(function: object) -> str | tuple[str, ...]:
    """Return the names that ``function`` takes; of what is written in C, the text that says so."""
    assert callable(function)
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:
        return function.__doc__ or ""


def _assigned(owner: object) -> set[str]:
    """Return the attributes that the methods of a class, or a function, set on whatever object."""
    values = [value for cls in owner.__mro__ for value in vars(cls).values()] if isinstance(owner, type) else [owner]
    functions = (inspect.unwrap(value) for value in values if isinstance(value, types.FunctionType))
    return {name for each in functions if isinstance(each, types.FunctionType) for name in _stored(each.__code__)}


def _stored(code: types.CodeType) -> Iterator[str]:
    yield from (each.argval for each in dis.get_instructions(code) if each.opname == "STORE_ATTR")
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _stored(inner)


def missing() -> list[str]:
    """Return those needed names that are not there. Imports all modules that hold one: torch, as a rule."""
    needed = [path for paths in NEEDED.values() for path in paths]
    if not CONFIG_PER_CONTEXT.there:
        needed += NEEDED_WITHOUT_CONTEXTS
    if found("torch._C:_cuda_init"):
        needed += NEEDED_WITH_CUDA
    return [path for path in needed if not found(path)]


def torch_version() -> tuple[int, int] | None:
    """Return the first two numbers of the installed torch's version; None without torch. Imports it only if it must."""
    try:
        text = str(sys.modules["torch"].__version__) if "torch" in sys.modules else importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec("torch") is None:
            return None
        text = str(importlib.import_module("torch").__version__)  # a checkout of torch on the path
    numbers = re.match(r"(\d+)\.(\d+)", text)
    assert numbers is not None, text
    return int(numbers[1]), int(numbers[2])


@functools.cache
def check() -> str | None:
    """Return a notice for the user where torch is newer than any that was tried; None where there is none.

    Raises `UsageError` where torch or Python is too old, and where a newer torch lacks a name that Motet needs.
    """
    if sys.version_info[:2] < OLDEST_PYTHON:
        raise UsageError(f"Motet needs Python {_dotted(OLDEST_PYTHON)} or newer, and this is {sys.version.split()[0]}")
    version = torch_version()
    remedy = f"install torch {_dotted(OLDEST)} or newer, for instance pip install 'torch>={_dotted(OLDEST)}'"
    if version is None:
        raise UsageError(f"Motet needs torch, and {sys.executable} has none: {remedy}")
    if version < OLDEST:
        raise UsageError(
            f"torch {_dotted(version)} is too old, since DDP and torch elastic of before {_dotted(OLDEST)} lack what "
            f"Motet works with: {remedy}"
        )
    if version <= NEWEST:
        return None
    if lacking := missing():
        raise UsageError(
            f"torch {_dotted(version)} has no {' and no '.join(lacking)}, which Motet needs: install "
            f"{_dotted(NEWEST)}, the newest that Motet was tested with, or a newer Motet"
        )
    return f"torch {_dotted(version)} is newer than {_dotted(NEWEST)}, the newest that Motet was tested with"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version[:2]))
