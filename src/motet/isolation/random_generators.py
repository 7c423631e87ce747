"""The global random generators of torch (CPU and CUDA), NumPy and `random`."""

from __future__ import annotations

import _random
import copy
import ctypes
import random
import sys
from typing import Any

import torch

from motet.isolation.registry import add

_cuda: Any = torch.cuda


class _GaussWindow:
    """Stands for a bit generator while the cached normal of NumPy's global generator is read or written.

    ``RandomState`` gives its cache out only together with the bit generator's state, and copying that takes 50
    times as long as everything else here. Its C generator is untouched meanwhile, so drawing goes on as ever.
    """

    @property
    def state(self) -> dict[str, Any]:
        return {"bit_generator": "MT19937", "state": None}

    @state.setter
    def state(self, value: Any) -> None:
        pass


_WINDOW = _GaussWindow()
_window_works: bool | None = None


def take_numpy() -> tuple[Any, dict[str, Any]]:
    """Return NumPy's global bit generator itself, and the normal that ``randn`` keeps for its next call."""
    rand = sys.modules["numpy.random.mtrand"]._rand
    bits = rand._bit_generator
    try:
        rand._bit_generator = _WINDOW
        cached = rand.get_state(legacy=False)
    finally:
        rand._bit_generator = bits
    return bits, cached


def put_numpy(value: tuple[Any, dict[str, Any]]) -> None:
    """Bind a bit generator as NumPy's global one, and bring the kept normal back."""
    bits, cached = value
    mtrand = sys.modules["numpy.random.mtrand"]
    mtrand.set_bit_generator(bits)  # empties the cache
    if cached["has_gauss"]:
        rand = mtrand._rand
        try:
            rand._bit_generator = _WINDOW
            rand.set_state(cached)
        finally:
            rand._bit_generator = bits


def copy_numpy(value: tuple[Any, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
    """Return an equal, independent bit generator with the same kept normal."""
    bits, cached = value
    return copy.deepcopy(bits), dict(cached)


def fresh_numpy() -> tuple[Any, dict[str, Any]]:
    """Return what NumPy begins with: a generator seeded by the system, with no normal kept."""
    return sys.modules["numpy.random"].MT19937(), {**_WINDOW.state, "has_gauss": 0, "gauss": 0.0}


def take_numpy_by_copy() -> dict[str, Any]:
    """Return NumPy's whole global state as a copy: the slow way, all public."""
    state: dict[str, Any] = sys.modules["numpy.random.mtrand"].get_state(legacy=False)
    return {**state, "object": sys.modules["numpy.random.mtrand"].get_bit_generator()}


def put_numpy_by_copy(value: dict[str, Any]) -> None:
    """Bring a copied state back into the kind of bit generator that it came from."""
    mtrand = sys.modules["numpy.random.mtrand"]
    if mtrand.get_bit_generator() is not value["object"]:
        mtrand.set_bit_generator(value["object"])
    mtrand.set_state(value)


def numpy_window_works() -> bool:
    """Return, found out once a process, whether this NumPy lets the cached normal be read and written by itself."""
    global _window_works
    if _window_works is None:
        mtrand = sys.modules["numpy.random.mtrand"]
        before = take_numpy_by_copy()
        try:
            mtrand.set_bit_generator(sys.modules["numpy.random"].MT19937(0))
            mtrand._rand.standard_normal()
            kept = take_numpy()
            expected = mtrand._rand.standard_normal()
            put_numpy(kept)
            _window_works = kept[1]["has_gauss"] == 1 and bool(mtrand._rand.standard_normal() == expected)
        except (AttributeError, TypeError, ValueError, KeyError):
            _window_works = False
        finally:
            mtrand.set_bit_generator(before["object"])
            put_numpy_by_copy(before)
    return _window_works


def _take_numpy() -> Any:
    return take_numpy() if numpy_window_works() else take_numpy_by_copy()


def _put_numpy(value: Any) -> None:
    if isinstance(value, tuple):
        put_numpy(value)
    else:
        put_numpy_by_copy(value)


def _copy_numpy(value: Any) -> Any:
    return copy_numpy(value) if isinstance(value, tuple) else copy.deepcopy(value)


def _take_torch() -> torch.Tensor:
    return torch.default_generator.get_state()


def _put_torch(value: torch.Tensor) -> None:
    torch.default_generator.set_state(value)


@torch.no_grad()
def _copy_torch(value: torch.Tensor) -> torch.Tensor:
    return value.clone()


def take_cuda() -> tuple[Any, ...]:
    """Return the live states of all CUDA generators; before CUDA is initialised, the seeds that wait for it.

    States are exchanged, not copied (graph-safe): a captured CUDA graph keeps the state that it was captured with.
    """
    if _cuda.is_initialized():
        return ("states", tuple(g.graphsafe_get_state() for g in _cuda.default_generators))
    seeds = _cuda._lazy_seed_tracker
    return ("seeds", (seeds.manual_seed_all_cb, seeds.manual_seed_cb, tuple(seeds.call_order)))


def put_cuda(value: tuple[Any, ...]) -> None:
    """Bring states or waiting seeds back; seeds that waited while another job initialised CUDA take effect now."""
    kind, content = value
    if kind == "states":
        for generator, state in zip(_cuda.default_generators, content, strict=True):
            generator.graphsafe_set_state(state)
    elif not _cuda.is_initialized():
        seeds = _cuda._lazy_seed_tracker
        seeds.manual_seed_all_cb, seeds.manual_seed_cb = content[:2]
        seeds.call_order = list(content[2])
    else:
        for generator in _cuda.default_generators:
            generator.graphsafe_set_state(generator.clone_state())
            generator.seed()
        for call in content[2]:
            if call is not None:
                call[0]()


def _copy_cuda(value: tuple[Any, ...]) -> tuple[Any, ...]:
    kind, content = value
    return (kind, tuple(state.clone_state() for state in content)) if kind == "states" else value


def _words(generator: random.Random) -> memoryview:
    """Return a generator's words as they lie in memory, behind its object's head."""
    size = _random.Random.__basicsize__ - object.__basicsize__
    return memoryview((ctypes.c_char * size).from_address(id(generator) + object.__basicsize__)).cast("B")


def _words_work() -> bool:
    """Return whether the words can be read and written in place, by trying it on a generator of our own."""
    if sys.implementation.name != "cpython":
        return False
    generator = random.Random(1)
    words, state = _words(generator), generator.getstate()
    before = bytes(words)
    drawn = [generator.random() for _ in range(1000)]  # more than there are words: all of them change
    words[:] = before
    return generator.getstate() == state and [generator.random() for _ in range(1000)] == drawn


_generator: Any = random._inst
_generator_words = _words(_generator) if _words_work() else None


def take_random() -> Any:
    """Return the state of `random`: the words as they lie in memory, a fiftieth of the cost of ``getstate``."""
    if _generator_words is None:
        return random.getstate()
    return bytes(_generator_words), _generator.gauss_next


def put_random(value: Any) -> None:
    """Bring the state of `random` back."""
    if _generator_words is None:
        random.setstate(value)
    else:
        _generator_words[:], _generator.gauss_next = value


def register_entries() -> None:
    """Register this family's entries."""
    add("torch generator", _take_torch, _put_torch, copy=_copy_torch)
    add("torch.cuda generators", take_cuda, put_cuda, copy=_copy_cuda)
    # Copied: the functions of `random` are methods bound to one object, which cannot be exchanged for another.
    add("random", take_random, put_random, skip_equal=True)
    add(
        "numpy.random",
        _take_numpy,
        _put_numpy,
        module="numpy.random.mtrand",
        fresh=fresh_numpy,
        copy=_copy_numpy,
    )
