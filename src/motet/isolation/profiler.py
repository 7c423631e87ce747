"""Torch's profiler: suspended while the job that profiles does not have its turn.

A process has one profiler. While it is on, every operator of the main thread is recorded, whoever computes. Collection
stops when the turn of the job that profiles ends, and goes on when its next one begins. (`motet.intercept.profilers`
sees to it that no two jobs profile at the same time.)
"""

from __future__ import annotations

from torch._C import _autograd
from torch._C._profiler import ActiveProfilerType
from torch.profiler import ProfilerActivity

from motet.isolation.registry import add
from motet.torch_versions import PROFILER_PAUSES

# All kinds at once: torch warns, at each call, of collecting some and not the others.
_ALL = {ProfilerActivity.CPU, ProfilerActivity.CUDA, ProfilerActivity.XPU}
_KINETO = ActiveProfilerType.KINETO

_profile: object | None = None  # what the present owner has begun; None: nothing is to be collected


def begun() -> None:
    """Say that the present owner's profiler is on. One that cannot be suspended goes on in others' turns."""
    global _profile
    can_pause = PROFILER_PAUSES.there and _autograd._profiler_type() == _KINETO
    _profile = object() if can_pause else None


def ended() -> None:
    """Say that it is off again."""
    global _profile
    _profile = None


def is_on() -> bool:
    """Return whether any profiler is on."""
    return _autograd._profiler_enabled()


def take_profile() -> object | None:
    """Return what the present owner has begun."""
    return _profile


def put_profile(value: object | None) -> None:
    """Collect for this owner, or for nobody."""
    global _profile
    _profile = value
    if _autograd._profiler_type() == _KINETO:
        _autograd._toggle_collection_dynamic(value is not None, _ALL)


def register_entries() -> None:
    """Register this family's entry."""
    add("torch profiler", take_profile, put_profile, skip_equal=True, restore_between_turns=True)
