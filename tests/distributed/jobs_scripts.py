"""What runs scripts in workers: alone as Python would, or together under Motet. No group is joined before."""

from __future__ import annotations

import contextlib
import logging
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import torch

from motet import isolation
from motet.jobs import Script
from motet.running import run


def alone(path: str, arguments: list[str]) -> None:
    """Run a script as ``python path arguments`` would; the process is for nothing else afterwards."""
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    with contextlib.suppress(SystemExit):
        runpy.run_path(path, run_name="__main__")


def together(scripts: dict[str, tuple[str, list[str]]]) -> dict[str, Any]:
    """Run scripts as jobs; return their statuses and turns, and what of this process's global state has changed."""
    before = _state()
    results = run({name: Script(path, arguments) for name, (path, arguments) in scripts.items()})
    after = _state()
    return {
        "status": {name: results[name].status for name in scripts},
        "error": {name: results[name].error for name in scripts},
        "notices": list(results.notices),
        "turns": {name: results[name].turns for name in scripts},
        "changed": [name for name in before if not _equal(before[name], after[name])],
    }


def _state() -> dict[str, Any]:
    state = dict(isolation.take_all().copy().values)
    state["logging"] = logging_state()
    state["modules"] = "helper" in sys.modules
    state["cwd and environment"] = os.getcwd(), dict(os.environ)
    return state


def logging_state() -> dict[str, Any]:
    """Return what there is of logging: the root, and some loggers that torch has made."""
    known = {name: logging.getLogger(name) for name in ("root", "torch", "torch.distributed", "torch._dynamo")}
    loggers = {
        name: (logger.level, list(logger.handlers), list(logger.filters), logger.propagate, logger.disabled)
        for name, logger in known.items()
    }
    attributes = ("_loggerClass", "_logRecordFactory", "lastResort", "_handlers", "_warnings_showwarning")
    of_module = [getattr(logging, name, None) for name in attributes]
    return {**loggers, "disable": logging.root.manager.disable, "module": [id(value) for value in of_module]}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, (list, tuple)) and type(one) is type(other):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if hasattr(one, "capsule") and hasattr(other, "state"):  # NumPy's bit generator: a copy has another identity
        return _equal(one.state, other.state)
    if type(one).__module__ == "numpy":
        return bool((one == other).all())
    return bool(one == other)


def differing(one: str, other: str) -> list[str]:
    """Compare what two runs of a script left in files; runs on a worker, which has torch."""
    from tests.distributed.identity import differences

    return differences(torch.load(one, weights_only=False), torch.load(other, weights_only=False))
