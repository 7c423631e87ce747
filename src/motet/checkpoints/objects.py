"""The state of what a job registered (model, optimizer, ...), split by who holds it, and back.

What all workers hold alike is saved once, by worker 0: modules, optimizers, learning-rate schedulers, gradient
scalers, and any other object with ``state_dict``. What each worker holds for itself is saved by each: its random
generators (the global ones, and what is registered as a `torch.Generator`), its place in the data, its modules'
buffers (under ``broadcast_buffers=False`` they differ).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.data import DataLoader, Sampler

from motet.checkpoints.data import DataPosition
from motet.checkpoints.files import Checkpoints
from motet.checkpoints.generators import random_generators, restore_random_generators
from motet.checkpoints.manifest import SHARED, Found, worker_part
from motet.errors import CheckpointError, UsageError

# Optimizer states that always have their parameter's shape; torch does not check that when it loads them.
_SHAPED_AS_PARAMETER = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg")


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a job goes on. ``notes``: what the user should know of it."""

    turn: int
    notes: tuple[str, ...]


def state_of(objects: Mapping[str, object]) -> dict[str, object]:
    """Return the ``state_dict()`` of each object; a module's without the names that DDP and compile prepend.

    The tensors are the objects' own: `snapshot` copies them. Raises `UsageError` for an object that has no state.
    """
    return {name: _unwrapped(name, each).state_dict() for name, each in objects.items()}


def restore(objects: Mapping[str, object], state: Mapping[str, object]) -> None:
    """Load into each object what `state_of` returned for it.

    Raises `CheckpointError`, which names the object, if names, keys or shapes do not fit; objects before that one have
    been restored by then.
    """
    if objects.keys() != state.keys():
        raise CheckpointError(
            f"the checkpoint holds {', '.join(sorted(state)) or 'nothing'}, the job registered "
            f"{', '.join(sorted(objects)) or 'nothing'}: register the same objects, or start the job from its beginning"
        )
    for name, each in objects.items():
        target = _unwrapped(name, each)
        try:
            target.load_state_dict(state[name])
            if isinstance(target, torch.optim.Optimizer):
                _check_shapes(target)
        except Exception as error:  # load_state_dict is the user's or torch's: it raises what it likes
            raise CheckpointError(
                f"the checkpoint does not fit {name!r} ({type(target).__name__}): {error}. It may be of a job with "
                "other arguments"
            ) from error


def payloads_of(objects: Mapping[str, object], worker: int) -> dict[str, object]:
    """Return what ``worker`` has to write, by the part's name: plain, but not copied yet (see `snapshot`)."""
    shared, own = _split(objects)
    payloads: dict[str, object] = {
        worker_part(worker): {
            "objects": state_of(own),
            "buffers": {name: dict(_buffers(module)) for name, module in _modules(shared)},
            "random": random_generators(),
        }
    }
    if worker == 0:
        payloads[SHARED] = {"objects": state_of(shared)}
    return payloads


def restore_job(checkpoints: Checkpoints, found: Found, objects: Mapping[str, object]) -> Restored:
    """Put ``objects`` and the random generators of this worker into the state of a checkpoint.

    Written by another number of workers, it lends a new worker the data position of an old one, and no random
    generators. Raises `CheckpointError` if a part is damaged or does not fit.
    """
    shared, own = _split(objects)
    worker = checkpoints.worker
    common = _fields(found, SHARED, checkpoints.load(found, SHARED), "objects")
    name = worker_part(worker % found.num_workers)
    alone = _fields(found, name, checkpoints.load(found, name), "objects", "buffers", "random")
    restore({**shared, **own}, {**common["objects"], **alone["objects"]})
    notes: tuple[str, ...] = ()
    if found.same_workers:
        _restore_buffers(shared, alone["buffers"])
    else:
        notes = (
            f"{found.path} was written by {found.num_workers} workers and goes on with {checkpoints.num_workers}: "
            "the weights are those that were saved, what follows will differ from the run with "
            f"{found.num_workers}",
        )
    if worker < found.num_workers:
        notes += restore_random_generators(alone["random"])
    return Restored(found.turn, notes)


def _split(objects: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """Return what all workers hold alike, and what each holds for itself."""
    own = {name: each for name, each in objects.items() if _is_own(each)}
    return {name: each for name, each in objects.items() if name not in own}, own


def _is_own(each: object) -> bool:
    if isinstance(each, nn.Module):
        return False
    # A stateful loader of any make is iterated; nothing else that is registered usually is.
    return isinstance(each, (DataPosition, DataLoader, Sampler, torch.Generator)) or hasattr(each, "__iter__")


def _unwrapped(name: str, each: object) -> Any:
    """Return the object whose state counts: the module within DDP and ``torch.compile``."""
    target: Any = each
    if isinstance(each, torch.Generator):
        return _GeneratorState(each)
    while True:
        if isinstance(target, (DistributedDataParallel, DataParallel)):
            target = target.module
        elif isinstance(target, nn.Module) and isinstance(inner := getattr(target, "_orig_mod", None), nn.Module):
            target = inner
        else:
            break
    for method in ("state_dict", "load_state_dict"):
        if not callable(getattr(target, method, None)):
            raise UsageError(
                f"{name!r} cannot be saved in a checkpoint: {type(target).__name__} has no {method}(); pass objects "
                "with state_dict() and load_state_dict()"
            )
    return target


class _GeneratorState:
    """A random generator of the loop's own, as an object with a state."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])


def _modules(objects: Mapping[str, object]) -> Iterator[tuple[str, nn.Module]]:
    for name, each in objects.items():
        if isinstance(each, nn.Module):
            yield name, _unwrapped(name, each)


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers that are part of the module's state."""
    saved = module.state_dict().keys()
    return ((name, buffer) for name, buffer in module.named_buffers() if name in saved)


def _restore_buffers(objects: Mapping[str, object], saved: Any) -> None:
    for name, module in _modules(objects):
        buffers = dict(_buffers(module))
        theirs = saved.get(name, {})
        shapes = {key: buffer.shape for key, buffer in buffers.items()}
        if shapes != {key: buffer.shape for key, buffer in theirs.items()}:
            raise CheckpointError(f"the checkpoint does not fit {name!r}: its buffers are others on this worker")
        with torch.no_grad():
            for key, buffer in buffers.items():
                buffer.copy_(theirs[key])


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    for parameter, state in optimizer.state.items():
        for key in _SHAPED_AS_PARAMETER:
            value = state.get(key)
            if isinstance(value, Tensor) and value.shape != parameter.shape:
                raise ValueError(f"{key} has shape {tuple(value.shape)}, its parameter {tuple(parameter.shape)}")


def _fields(found: Found, part: str, payload: Any, *names: str) -> Mapping[str, Any]:
    """Return ``payload`` if it is a dict with these fields."""
    if not isinstance(payload, dict) or any(not isinstance(payload.get(name), dict) for name in names):
        raise CheckpointError(f"{part} of checkpoint {found.path} does not hold {', '.join(names)}")
    return payload
