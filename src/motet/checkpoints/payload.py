"""What may go into a checkpoint: tensors and plain containers, copied to CPU memory.

A checkpoint is loaded with ``weights_only=True``, which runs no code; what that could not read back is refused
when it is saved, by its key. See ADR 0007.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from motet.checkpoints.stream import LARGE, aligned_memory
from motet.errors import CheckpointError

# Exact types, no subclasses: an enum is an int, a namedtuple is a tuple, and weights_only reads neither.
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device})
_MAPPINGS = frozenset({dict, OrderedDict, Counter})
_TENSORS = frozenset({Tensor, torch.nn.Parameter, torch.nn.Buffer})
_MOST_DEPTH = 100
_MOST_BITS = 1024  # weights_only reads integers of up to 255 bytes
_REMEDY = "a checkpoint holds tensors, numbers, strings, lists, tuples, sets and dicts"

Copies = dict[str, Tensor]


def snapshot(payload: object, copies: Copies | None = None) -> object:
    """Copy ``payload`` to CPU memory, so that it may be written while the training goes on.

    Tensors that are one and the same (tied weights) stay one. ``copies`` is filled with the copies by key; passed
    again, copies of the same shape are written over in place, which saves touching new memory: only when the earlier
    snapshot is no longer needed. Blocks until accelerators have delivered. Raises `CheckpointError`, which names the
    key, for what could not be loaded again.
    """
    taking = _Taking({} if copies is None else copies)
    with torch.inference_mode(False), torch.no_grad():  # a copy made in inference mode could only be used again there
        result = _walk(payload, "", 0, taking.copy)
    taking.wait_for_accelerators()
    if copies is not None:
        copies.clear()
        copies.update(taking.taken)
    return result


def check_plain(payload: object) -> None:
    """Raise `CheckpointError`, naming the key, if ``payload`` holds what could not be loaded again."""
    _walk(payload, "", 0, lambda tensor, key: tensor)


class _Taking:
    """One snapshot being taken."""

    def __init__(self, earlier: Copies) -> None:
        self.earlier = earlier
        self.taken: Copies = {}
        self._seen: dict[tuple[object, ...], Tensor] = {}
        self._sources: list[Tensor] = []  # an entry of _seen holds while its tensor lives
        self._devices: set[torch.device] = set()

    def copy(self, tensor: Tensor, key: str) -> Tensor:
        source = tensor.detach()
        if source.layout is not torch.strided:
            return source.cpu().clone()
        lazy = source.is_conj(), source.is_neg()
        same = (source.device, source.data_ptr(), source.dtype, source.shape, source.stride(), lazy)
        if source.numel() and same in self._seen:
            return self._seen[same]
        copy = self._place(source, key)
        copy.copy_(source, non_blocking=True)
        if source.device.type != "cpu":
            self._devices.add(source.device)
        self.taken[key] = self._seen[same] = copy
        self._sources.append(source)
        return copy

    def _place(self, source: Tensor, key: str) -> Tensor:
        """Return memory for a copy of ``source``: that of the earlier snapshot, if it fits."""
        place = self.earlier.pop(key, None)  # two keys may read alike: each place is taken once
        # Strides that empty_like would keep (channels_last) have to be kept here, too.
        fresh = torch.empty_like(source, device="meta")
        if place is not None and (place.dtype, place.shape, place.stride()) == (
            source.dtype,
            source.shape,
            fresh.stride(),
        ):
            return place
        pinned = source.device.type == "cuda"
        if pinned or fresh.nbytes < LARGE:
            return torch.empty_like(source, device="cpu", pin_memory=pinned)
        memory = torch.from_numpy(aligned_memory(fresh.nbytes))
        place = torch.empty(0, dtype=source.dtype, device="cpu")
        return place.set_(memory.untyped_storage(), 0, fresh.shape, fresh.stride())

    def wait_for_accelerators(self) -> None:
        for device in self._devices:
            torch.accelerator.synchronize(device)


def _walk(value: object, key: str, depth: int, tensor: Callable[[Tensor, str], Tensor]) -> object:
    """Return ``value`` rebuilt of new containers, each tensor replaced by ``tensor(it, its key)``."""
    kind = type(value)
    if kind in _ATOMS:
        if kind is int and value.bit_length() > _MOST_BITS:  # type: ignore[attr-defined]
            raise _refusal(key, f"an integer of {value.bit_length()} bits", "use a string")  # type: ignore[attr-defined]
        if kind is bytes and not value:
            raise _refusal(key, "an empty bytes object, which torch writes as a call", "use None")
        return value
    if isinstance(value, Tensor):
        return tensor(_checked(value, key), key)
    if depth >= _MOST_DEPTH:
        raise _refusal(key, f"a container nested more than {_MOST_DEPTH} deep (or that holds itself)", _REMEDY)
    if kind in _MAPPINGS:
        assert isinstance(value, dict)
        items = {
            _checked_key(k, key): _walk(v, f"{key}.{k}" if key else str(k), depth + 1, tensor) for k, v in value.items()
        }
        if kind is OrderedDict:
            return _with_metadata(OrderedDict(items), value, key)
        return items if kind is dict else Counter(items)
    if kind is list or kind is tuple:
        assert isinstance(value, (list, tuple))
        rebuilt = [_walk(v, f"{key}[{i}]", depth + 1, tensor) for i, v in enumerate(value)]
        return rebuilt if kind is list else tuple(rebuilt)
    if kind is set:
        assert isinstance(value, set)
        return {_checked_key(v, key) for v in value}
    return _number(value, key)


def _with_metadata(rebuilt: OrderedDict[object, object], original: object, key: str) -> object:
    """Keep the versions that a module's ``state_dict()`` carries as an attribute, for its ``load_state_dict``."""
    metadata = getattr(original, "_metadata", None)
    if metadata is not None:
        rebuilt._metadata = _walk(metadata, f"{key}._metadata", 0, lambda tensor, _: tensor)  # type: ignore[attr-defined]
    return rebuilt


def _number(value: object, key: str) -> object:
    """Return a NumPy scalar as the Python number that it equals in all arithmetic; refuse anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and type(value) in (numpy.float64, numpy.int64, numpy.bool_):
        plain: object = value.item()  # type: ignore[attr-defined]
        return plain
    kind = type(value)
    remedy = _REMEDY
    if numpy is not None and isinstance(value, numpy.ndarray):
        remedy = "use torch.from_numpy(...)"
    elif numpy is not None and isinstance(value, numpy.generic):
        remedy = "use .item()"
    elif isinstance(value, dict):
        remedy = "use dict(...)"
    elif isinstance(value, tuple):
        remedy = "use tuple(...)"
    raise _refusal(key, f"a {kind.__module__}.{kind.__qualname__}", remedy)


def _checked_key(value: object, key: str) -> object:
    """Return ``value``, an element of a set or a key of a dict, if it is plain."""
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if type(value) is tuple and all(type(v) in (str, int, float, bool, type(None)) for v in value):
        return value
    raise _refusal(key, f"the key {value!r} of type {type(value).__qualname__}", "use strings or numbers as keys")


def _checked(value: Tensor, key: str) -> Tensor:
    if type(value) not in _TENSORS:
        raise _refusal(key, f"a tensor of the class {type(value).__qualname__}", "use a plain torch.Tensor")
    if value.device.type == "meta":
        raise _refusal(key, "a tensor on the meta device, without values", "materialize it before the training")
    if value.layout not in (torch.strided, torch.sparse_coo) or value.is_quantized or value.is_nested:
        raise _refusal(key, f"a tensor of layout {value.layout}, {value.dtype}", "use a dense tensor")
    return value


def _refusal(key: str, what: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"cannot be saved in a checkpoint: {key or 'the payload'} is {what}; {remedy}")
