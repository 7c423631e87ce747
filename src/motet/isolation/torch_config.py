"""The settings of Dynamo, Inductor and their like, where torch keeps one value for the whole process.

Since 2.12 torch keeps what a program sets in context variables, and every job has a context of its own: nothing is left
to do. Before, each module of settings is an entry here. Kept apart is what was set; a list or dictionary of settings
that a job changes in place is changed for all.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from operator import attrgetter
from typing import Any

import torch.utils._config_module

from motet.isolation.registry import add
from motet.torch_versions import CONFIG_PER_CONTEXT

_MODULES = (
    "torch._dynamo.config",
    "torch._functorch.config",
    "torch._inductor.config",
    "torch.compiler.config",
    "torch.fx.experimental._config",
    "torch.utils.serialization.config",
)
_UNSET: Any = None if CONFIG_PER_CONTEXT.there else torch.utils._config_module._UNSET_SENTINEL


_set_to = attrgetter("user_override")


@cache
def _entries(module: str) -> tuple[Any, ...]:
    return tuple(sys.modules[module]._config.values())  # some hundreds, always the same objects


def take(module: str) -> list[Any]:
    """Return what each setting of a module was set to, if it was. One that holds a list is set by being read."""
    return list(map(_set_to, _entries(module)))


def put(module: str, value: list[Any]) -> None:
    """Set what was set, and nothing else."""
    for entry, each in zip(_entries(module), value, strict=True):
        entry.user_override = each
    settings: Any = sys.modules[module]
    settings._is_dirty = True  # torch keeps a digest of all


def fresh(module: str) -> list[Any]:
    """Return what a first importer finds."""
    return [_UNSET] * len(_entries(module))


def register_entries() -> None:
    """Register an entry for each module of settings, where torch keeps one value for all."""
    if not CONFIG_PER_CONTEXT.there:
        for module in _MODULES:
            taking, putting = partial(take, module), partial(put, module)
            add(f"{module} settings", taking, putting, module=module, fresh=partial(fresh, module), skip_equal=True)
