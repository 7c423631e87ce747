"""One job's frozen weights: which there are, and how they come to lie in a file that other jobs map as well.

A *piece* is a storage of at least `SMALLEST_BYTES` that only parameters and buffers without gradients use. It is
shared by exchanging the memory of the storage itself, under all tensors that use it: tied weights, views and whatever
else knows the tensors find the same bytes, and go on as before. What is memory of another library's (NumPy has it, or a
mapped file) stays where it is: somebody may hold its address. What somebody uses now is left for later
(`motet.frozen.in_use`).
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
import xxhash
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from motet.frozen import pages
from motet.frozen.in_use import Stillness, objects_of
from motet.memory.footprint import SETTLED_TURN
from motet.torch_versions import STORAGE_SWAP

SMALLEST_BYTES = 1 << 20
WITHOUT = "frozen weights cannot be shared here: this takes Linux, and torch 2.12 or newer. Each job holds its own."
_FREED_BYTES = 1 << 26  # so much is freed before it is given back to the system
Places = Mapping[str, int]
"""Where pieces lie in a file: their bytes' names, and where each begins."""


@dataclass
class Piece:
    """A storage of a job's. ``name``: of its bytes, equal for equal bytes.

    ``shared``: it lies in a file. ``own``: it was written to, and is never shared again.
    """

    storage: StorageWeakRef  # not a tensor: torch.utils.swap_tensors takes none that is referred to weakly
    name: str
    num_bytes: int
    address: int
    movable: bool
    shared: bool = False
    own: bool = False


@dataclass
class Shared:
    """What became of pieces, by their bytes' names: those that are in use now are to be asked for again ``later``."""

    shared: dict[str, int] = field(default_factory=dict)
    later: set[str] = field(default_factory=set)
    error: str | None = None


@dataclass
class Written:
    """A file, open, and what lies in it; None if that is nothing. ``error``: why there is no more."""

    file: int | None
    places: dict[str, int]
    error: str | None


class JobWeights:
    """The frozen weights of one job. ``known``: storages that were seen before, by their addresses.

    ``in_use``: some could not be shared when that was tried last, so that it is tried more seldom.
    """

    def __init__(self, known: dict[int, StorageWeakRef]) -> None:
        self.in_use = False
        self._next_look = 0
        self._known = known
        self._found: list[StorageWeakRef] = []
        self._pieces: list[Piece] = []

    def is_due(self, turn: int) -> bool:
        """Whether to look, in this turn, at what takes time: the 1st, 3rd, 6th, 12th, …, or the next one there is."""
        if turn < self._next_look:
            return False
        self._next_look = SETTLED_TURN
        while self._next_look <= turn:
            self._next_look *= 2
        return True

    def find(self, modules: Iterable[nn.Module]) -> None:
        """Find the frozen weights of these modules that were not seen before. Reads none of their bytes."""
        self._found += frozen_storages(_whole(modules), self._known)

    @property
    def num_found(self) -> int:
        """How many were found and have no names yet."""
        return len(self._found)

    def name(self, still: Stillness) -> dict[str, int]:
        """Return the bytes, by name, of what was found since the last time and can be shared. Reads all of them.

        What is in use is left for the next time.
        """
        named: dict[str, int] = {}
        found, self._found = self._found, []
        for reference in found:
            storage = _there(reference)
            if storage is None:
                continue
            movable, address, num_bytes = storage.resizable(), storage.data_ptr(), storage.nbytes()
            if movable and not still.is_free(storage):
                self._found.append(reference)
                continue
            if pages.is_zero(address, num_bytes):
                continue  # the kernel may not even have made pages: a cache that is still empty
            name = _name(address, num_bytes)
            self._pieces.append(Piece(reference, name, num_bytes, address, movable))
            if movable:
                named[name] = num_bytes
        return named

    @property
    def names(self) -> list[str]:
        """The names of all that can be shared, or is."""
        return sorted({piece.name for piece in self._pieces if piece.movable and not piece.own})

    def write(self, names: Collection[str], still: Stillness) -> Written:
        """Write pieces to a file for others to map, and use its pages.

        Each piece's own memory is freed before the next one is written. Left out is what the job has no more, what has
        changed, and what there is no memory for; and what is in use, with all that would follow it: that is found anew.
        """
        if not still:
            self._find_anew(names)
            return Written(None, {}, None)
        chosen: dict[str, Piece] = {}
        for piece in self._pieces:
            fresh = piece.movable and not piece.shared and not piece.own
            if piece.name in names and fresh and self._storage(piece) is not None:
                chosen.setdefault(piece.name, piece)
        if not chosen:
            return Written(None, {}, None)
        places: dict[str, int] = {}
        file, error = -1, None
        size = sum(pages.whole_pages(piece.num_bytes) for piece in chosen.values())
        try:
            file = pages.new_file(size)
            self._fill(file, list(chosen.values()), places, still)
        except OSError as failure:
            error = str(failure)
        except BaseException:
            if file >= 0:
                os.close(file)
            raise
        pages.give_back_freed()
        if places:
            pages.seal(file)
            return Written(file, places, error)
        if file >= 0:
            os.close(file)
        return Written(None, {}, error)

    def _fill(self, file: int, pieces: Collection[Piece], places: dict[str, int], still: Stillness) -> None:
        end = freed = 0
        for piece in pieces:
            pages.write(file, end, piece.address, piece.num_bytes)
            written = pages.map_block(file, end, piece.num_bytes)
            if _name(pages.address_of(written), piece.num_bytes) == piece.name:  # the piece may have changed since
                if self._exchange(piece, file, end, still) == "later":  # one copy more, and nothing is gained
                    del written
                    os.ftruncate(file, end)
                    self._find_anew({each.name for each in pieces} - places.keys())
                    return
                places[piece.name] = end
            end += pages.whole_pages(piece.num_bytes)
            if end - freed > _FREED_BYTES:
                pages.give_back_freed()
                freed = end

    def _find_anew(self, names: Collection[str]) -> None:
        """Have what is not shared yet be named, and claimed, when it is not in use."""
        kept: list[Piece] = []
        for piece in self._pieces:
            again = piece.name in names and piece.movable and not piece.shared and not piece.own
            if again:
                self._found.append(piece.storage)
            else:
                kept.append(piece)
        self._pieces = kept

    def share(self, file: int, places: Places, still: Stillness) -> Shared:
        """Use the pages of a file, which is open, for pieces that the job has; return what became of them.

        Those whose bytes have changed since they were looked at stay the job's own.
        """
        done = Shared()
        for piece in self._pieces:
            if piece.own or piece.name not in places:
                continue
            try:
                outcome = self._exchange(piece, file, places[piece.name], still)
            except OSError as error:
                done.error = str(error)
                break
            if outcome == "shared":
                done.shared[piece.name] = piece.num_bytes
            elif outcome == "later":
                done.later.add(piece.name)
        pages.give_back_freed()
        return done

    def _exchange(
        self, piece: Piece, file: int, offset: int, still: Stillness
    ) -> Literal["shared", "later", "changed"]:
        if piece.shared:
            return "shared"
        storage = self._storage(piece)
        if storage is None or not storage.resizable() or _is_pinned(storage):
            return "changed"
        if not still.is_free(storage):
            return "later"
        block = pages.map_block(file, offset, piece.num_bytes)  # its own, also where another piece has the same bytes
        if not pages.same_bytes(piece.address, pages.address_of(block), piece.num_bytes):
            return "changed"
        there = torch.frombuffer(block, dtype=torch.uint8).untyped_storage()
        if still.at_once(partial(storage._swap_data_ptr_, there)) is None:  # type: ignore[attr-defined]
            return "later"
        piece.shared, piece.address = True, storage.data_ptr()
        return "shared"

    def written(self, still: Stillness) -> list[str]:
        """Give back the pages of pieces that the job has written to; return their names, of which it has none now."""
        gone: set[str] = set()
        for piece in self._pieces:
            if not piece.shared:
                continue
            storage = self._storage(piece)
            if storage is not None:
                if not pages.is_written(piece.address, piece.num_bytes):
                    continue
                if _is_pinned(storage) or not still.is_free(storage):
                    continue
                try:
                    if not pages.make_own(piece.address, piece.num_bytes, still.at_once):
                        continue
                except OSError:  # no memory now: the copies that the kernel has made are as good
                    continue
            piece.shared, piece.own = False, True
            gone.add(piece.name)
        self._pieces = [piece for piece in self._pieces if not piece.storage.expired()]
        return sorted(gone - {piece.name for piece in self._pieces if piece.shared})

    @property
    def num_shared(self) -> int:
        """How many pieces lie in files."""
        return sum(piece.shared for piece in self._pieces)

    def fixed(self) -> dict[str, int]:
        """Return the bytes, by name, of pieces that stay where they are: memory that is not torch's own."""
        return {piece.name: piece.num_bytes for piece in self._pieces if not piece.movable}

    def _storage(self, piece: Piece) -> torch.UntypedStorage | None:
        """Return the storage of a piece, if it still is where it was."""
        storage = _there(piece.storage)
        if storage is None or (storage.data_ptr(), storage.nbytes()) != (piece.address, piece.num_bytes):
            return None
        return storage


def can_share() -> bool:
    """Whether what this takes is there: of torch, of the system as Python was built for it, and Python's lock."""
    locks = not sysconfig.get_config_var("Py_GIL_DISABLED")
    return sys.platform == "linux" and STORAGE_SWAP.there and pages.are_there() and locks


def frozen_storages(modules: Iterable[nn.Module], known: dict[int, StorageWeakRef]) -> list[StorageWeakRef]:
    """Return the storages that are frozen, large enough and not ``known``; know all of them afterwards."""
    for key in [key for key, reference in known.items() if reference.expired()]:
        del known[key]
    storages: dict[int, torch.UntypedStorage] = {}
    trained: set[int] = set()
    for module in modules:
        for each in _held_by(module):
            for tensor in _plain(each):
                if (storage := _large_storage(tensor)) is not None:
                    storages[storage._cdata] = storage
                    if each.requires_grad:
                        trained.add(storage._cdata)
    fresh = {key: StorageWeakRef(storages[key]) for key in storages.keys() - trained - known.keys()}
    known.update(fresh)
    return [fresh[key] for key in storages if key in fresh]


def _there(reference: StorageWeakRef) -> torch.UntypedStorage | None:
    return torch.UntypedStorage._new_with_weak_ptr(reference.cdata)


def _name(address: int, num_bytes: int) -> str:
    return f"{num_bytes}-{xxhash.xxh3_128_hexdigest(pages.bytes_at(address, num_bytes))}"


def _held_by(module: nn.Module) -> Iterator[Tensor]:
    """Yield the parameters and buffers of a module itself: not by its methods, which may be its program's own."""
    for name in ("_parameters", "_buffers"):
        for each in list((module.__dict__.get(name) or {}).values()):
            if isinstance(each, Tensor):
                yield each


def _whole(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the modules that FSDP has not taken over: it frees and fills storages by itself."""
    found = list(modules)
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None:
        return found
    sharded = (fsdp.FSDPModule, fsdp.FullyShardedDataParallel)
    taken = {id(part) for module in found if issubclass(type(module), sharded) for part in module.modules()}
    return [module for module in found if id(module) not in taken]


def _plain(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that hold a tensor's bytes: itself, or what is inside of a quantized or distributed one."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        inner = getattr(tensor, name)
        if isinstance(inner, Tensor):
            yield from _plain(inner)


def _large_storage(tensor: Tensor) -> torch.UntypedStorage | None:
    if nn.parameter.is_lazy(tensor) or tensor.layout != torch.strided:
        return None
    storage = tensor.untyped_storage()
    if storage.device.type != "cpu" or storage.nbytes() < SMALLEST_BYTES:
        return None
    try:
        storage.data_ptr()
    except RuntimeError:  # of a tensor that is made of others, and does not say so
        return None
    return None if storage.is_shared() or _is_pinned(storage) else storage


def _is_pinned(storage: torch.UntypedStorage) -> bool:
    return torch.cuda.is_initialized() and bool(storage.is_pinned())


def has_grown(allocated: int | None) -> bool:
    """Whether enough was allocated since then that there may be frozen weights: looking for them takes time."""
    now = pages.allocated_bytes()
    return now is None or allocated is None or now - allocated >= SMALLEST_BYTES


def modules_here() -> list[nn.Module]:
    """Return all modules of this process, wherever they are kept: a teacher is not wrapped in anything."""
    return objects_of(nn.Module)
