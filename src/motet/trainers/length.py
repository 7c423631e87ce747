"""How many turns a training that a framework owns is going to take, read from its trainer.

Nothing is imported and nothing is patched: a job's first turn ends inside its trainer, which is on the stack then.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

_MOST_FRAMES = 200


def turns_expected(frame: FrameType | None) -> int | None:
    """Return how many turns the training on the stack will take, that of the first one included.

    None where no trainer is found, or where it does not know: an endless training, optimization by hand. A training
    may end sooner (early stopping).
    """
    kind, owner = owner_on_stack(frame)
    return None if owner is None else _whole(_READERS[kind], owner)


def owner_on_stack(frame: FrameType | None) -> tuple[str, Any]:
    """Return the framework whose training is on the stack, and what owns it there: Lightning's fit loop, a trainer.

    ``('', None)`` where there is none.
    """
    kinds = {(file, function): kind for (module, function), kind in _OWNERS.items() if (file := _file_of(module))}
    for _ in range(_MOST_FRAMES):
        if frame is None or not kinds:
            break
        code = frame.f_code
        if (code.co_filename, code.co_name) in kinds:
            return kinds[code.co_filename, code.co_name], frame.f_locals.get("self")
        frame = frame.f_back
    return "", None


def _file_of(module: str) -> str | None:
    return getattr(sys.modules.get(module), "__file__", None)


def _whole(reader: Callable[[Any], Any], owner: Any) -> int | None:
    try:
        turns = reader(owner)
    except Exception:  # another version of the framework, or a trainer that does not know
        return None
    if isinstance(turns, (int, float)) and math.isfinite(turns) and turns >= 1:
        return int(turns)
    return None


def _of_lightning(loop: Any) -> Any:
    trainer = loop.trainer
    if not trainer.lightning_module.automatic_optimization:
        return None  # as many backwards a batch as it likes
    return trainer.estimated_stepping_batches - trainer.global_step


def _of_transformers(trainer: Any) -> Any:
    return trainer.state.max_steps - trainer.state.global_step


# Functions with few local variables: reading those of a frame keeps them alive until it returns.
_OWNERS = {
    ("lightning.pytorch.loops.fit_loop", "advance"): "lightning",
    ("pytorch_lightning.loops.fit_loop", "advance"): "lightning",
    ("transformers.trainer", "train"): "transformers",
}
_READERS: dict[str, Callable[[Any], Any]] = {"lightning": _of_lightning, "transformers": _of_transformers}
