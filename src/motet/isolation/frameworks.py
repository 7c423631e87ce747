"""What training frameworks keep one of per process."""

from __future__ import annotations

import sys
from typing import Any

from motet.isolation.registry import add

_ACCELERATE_CLASSES = ("PartialState", "AcceleratorState", "GradientState")


def _classes() -> tuple[Any, ...]:
    state = sys.modules["accelerate.state"]
    return tuple(getattr(state, name) for name in _ACCELERATE_CLASSES if hasattr(state, name))


def take_accelerate() -> tuple[dict[str, Any], ...]:
    """Return the dictionaries that all instances of Accelerate's states share, as they are."""
    return tuple(cls._shared_state for cls in _classes())


def put_accelerate(value: tuple[dict[str, Any], ...]) -> None:
    """Bind them again: instances that a job made before go on using the dictionaries of that job."""
    for cls, shared in zip(_classes(), value, strict=True):
        cls._shared_state = shared


def fresh_accelerate() -> tuple[dict[str, Any], ...]:
    """Return empty dictionaries: nobody has made a state yet."""
    return tuple({} for _ in _classes())


def _copy_accelerate(value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
    return tuple(dict(shared) for shared in value)


def register_entries() -> None:
    """Register this family's entries."""
    add(
        "accelerate",
        take_accelerate,
        put_accelerate,
        module="accelerate.state",
        fresh=fresh_accelerate,
        copy=_copy_accelerate,
    )
