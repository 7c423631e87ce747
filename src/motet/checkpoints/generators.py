"""The random generators of this worker, as plain data, and back."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from motet.errors import CheckpointError

# Looked up in numpy.random by a name that stands in a file: these and no others.
_NUMPY_KINDS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def random_generators() -> dict[str, object]:
    """Return the state of torch's (CPU, and accelerators in use), NumPy's and Python's generators.

    Consists of tensors and plain containers. Draws nothing. About 100 µs, most of it NumPy's.
    """
    version, words, gauss = random.getstate()
    states: dict[str, object] = {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "words": array("I", words).tobytes(), "gauss": gauss},
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy"] = _as_tensors(numpy.random.get_state(legacy=False))
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None:
        module = torch.get_device_module(device)
        if module.is_initialized():
            states["accelerator"] = {"type": device.type, "states": module.get_rng_state_all()}
    return states


def restore_random_generators(states: Mapping[str, object]) -> tuple[str, ...]:
    """Put back what `random_generators` returned; return notes on what this machine has no generator for.

    Raises `CheckpointError` if ``states`` is something else.
    """
    try:
        python: Any = states["python"]
        words = array("I")
        words.frombytes(python["words"])
        random.setstate((python["version"], tuple(words), python["gauss"]))
        if "numpy" in states:
            _restore_numpy(states["numpy"])
        torch.set_rng_state(_tensor(states["torch"]))
        return _restore_accelerator(states.get("accelerator"))
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise CheckpointError(f"cannot restore the random generators: {type(error).__name__}: {error}") from error


def same_generators(one: object, other: object) -> bool:
    """Return whether two results of `random_generators` are equal."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_generators(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_generators, one, other))
    return type(one) is type(other) and one == other


def _restore_accelerator(saved: Any) -> tuple[str, ...]:
    if saved is None:
        return ()
    kind, states = saved["type"], saved["states"]
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None or device.type != kind:
        here = "no accelerator" if device is None else device.type
        return (f"the checkpoint has random generators of {kind}, this worker has {here}: random numbers will differ",)
    module = torch.get_device_module(device)
    present = torch.accelerator.device_count()
    for index, state in enumerate(states[:present]):
        module.set_rng_state(_tensor(state), index)
    return ()


def _restore_numpy(saved: Any) -> None:
    import numpy

    state = _as_arrays(saved)
    kind = state["bit_generator"]
    if kind not in _NUMPY_KINDS:
        raise ValueError(f"NumPy has no bit generator {kind!r} that Motet knows ({', '.join(_NUMPY_KINDS)})")
    if numpy.random.get_state(legacy=False)["bit_generator"] != kind:
        numpy.random.set_bit_generator(getattr(numpy.random, kind)())  # type: ignore[attr-defined]
    numpy.random.set_state(state)


def _as_tensors(value: Any) -> Any:
    """Replace NumPy's arrays by tensors (copies), within dicts."""
    if isinstance(value, dict):
        return {key: _as_tensors(inner) for key, inner in value.items()}
    if hasattr(value, "__array__"):
        return torch.from_numpy(value.copy()) if value.ndim else value.item()
    return value


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_arrays(inner) for key, inner in value.items()}
    return value.numpy() if isinstance(value, Tensor) else value


def _tensor(value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"a generator's state is a tensor, got {type(value).__name__}")
    return value
