"""Operators that a job defines with ``torch.library``: in a namespace of its own where another has taken the name.

Torch's table of operators is one for the process. Whoever comes first with a namespace has it under its name. For every
other job that defines operators in a namespace of that name, torch knows it by another name, and ``torch.ops.NAME`` is
that one while the job has its turn.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch

from motet.isolation.registry import add

_of_process: dict[str, Any] = {}  # namespaces by names that mean another one to some jobs
_owners: dict[str, object] = {}  # who defines operators in which namespace; None: everyone's
_names: dict[tuple[object, str], str] = {}  # how torch knows a namespace of an owner's, where it differs
_numbers = itertools.count(2)


def namespace_of(owner: object, name: str, *, defines: bool) -> str:
    """Return how torch knows the namespace that ``owner`` calls ``name``; it may be about to define operators in it."""
    if (known := _names.get((owner, name))) is not None:
        return known
    if not defines:
        return name
    if name not in _owners:
        _owners[name] = None if _exists(name) else owner
    if _owners[name] in (None, owner):
        return name
    known = f"{name}__{next(_numbers)}"
    _owners[known] = owner
    _names[owner, name] = known
    _of_process.setdefault(name, getattr(torch.ops, name))
    vars(torch.ops)[name] = getattr(torch.ops, known)
    return known


def note_everyones(name: str) -> None:
    """Take note that a library defines operators in a namespace: it is nobody's own."""
    _owners.setdefault(name, None)


def forget(owner: object) -> None:
    """Forget an owner that has ended."""
    for key in [key for key in _names if key[0] is owner]:
        del _names[key]


def _exists(name: str) -> bool:
    prefix = f"{name}::"
    return any(operator.startswith(prefix) for operator in torch._C._dispatch_get_all_op_names())


def take_namespaces() -> dict[str, Any]:
    """Return what the names mean to the present owner that do not mean the same to all."""
    namespaces = vars(torch.ops)
    return {name: namespaces.get(name) for name in _of_process}


def put_namespaces(value: dict[str, Any]) -> None:
    """Bring it back."""
    for name, plain in _of_process.items():
        vars(torch.ops)[name] = value.get(name, plain)


def register_entries() -> None:
    """Register this family's entry."""
    add("torch operators", take_namespaces, put_namespaces, skip_equal=True)
