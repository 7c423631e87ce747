"""The settings of Dynamo, Inductor and their like, where torch keeps one value for the whole process.

Since 2.12 torch keeps what a program sets in context variables, and every job has a context of its own: nothing is left
to do. Before, each module of settings is an entry here. Kept apart is what was set; a list or dictionary of settings
that a job changes in place is changed for all.
"""

from __future__ import annotations

import sys
from functools import partial
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


def take(module: str) -> dict[str, Any]:
    """Return what was set in a module of settings, by name. A list that was only read counts as set, to what it is."""
    entries = sys.modules[module]._config.items()
    return {name: entry.user_override for name, entry in entries if entry.user_override is not _UNSET}


def put(module: str, value: dict[str, Any]) -> None:
    """Set what was set, and nothing else."""
    settings: Any = sys.modules[module]
    for name, entry in settings._config.items():
        entry.user_override = value.get(name, _UNSET)
    settings._is_dirty = True  # torch keeps a digest of all


def register_entries() -> None:
    """Register an entry for each module of settings, where torch keeps one value for all."""
    if not CONFIG_PER_CONTEXT.there:
        for module in _MODULES:
            taking, putting = partial(take, module), partial(put, module)
            add(f"{module} settings", taking, putting, module=module, fresh=dict, skip_equal=True)
