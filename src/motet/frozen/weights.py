"""One job's frozen weights: which there are, and how they come to lie in a file that other jobs map as well.

A *piece* is a storage of at least `SMALLEST_BYTES` that only parameters and buffers without gradients use. It is
shared by exchanging the memory of the storage itself, under all tensors that use it: tied weights, views and whatever
else knows the tensors find the same bytes, and go on as before. What is memory of another library's (NumPy has it, or a
mapped file) stays where it is: somebody may hold its address.
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from motet.frozen import pages
from motet.torch_versions import STORAGE_SWAP

SMALLEST_BYTES = 1 << 20
WITHOUT = "frozen weights cannot be shared here: this takes Linux, and torch 2.12 or newer. Each job holds its own."
_FREED_BYTES = 1 << 26  # so much is freed before it is given back to the system
Places = Mapping[str, int]
"""Where pieces lie in a file: their bytes' names, and where each begins."""


@dataclass
class Piece:
    """A storage of a job's, by one of its tensors. ``name``: of its bytes, equal for equal bytes.

    ``shared``: it lies in a file. ``own``: it was written to, and is never shared again.
    """

    tensor: weakref.ref[Tensor]
    name: str
    num_bytes: int
    address: int
    movable: bool
    shared: bool = False
    own: bool = False


class JobWeights:
    """The frozen weights of one job. ``known``: tensors that were seen before, by their ids."""

    def __init__(self, known: dict[int, weakref.ref[Tensor]]) -> None:
        self._known = known
        self._found: list[weakref.ref[Tensor]] = []
        self._pieces: list[Piece] = []
        self._left: list[torch.UntypedStorage] = []  # memory that another thread may be reading still

    def find(self, modules: Iterable[nn.Module]) -> None:
        """Find the frozen weights of these modules that were not seen before. Reads none of their bytes."""
        self._found += [weakref.ref(tensor) for tensor in frozen_tensors(_whole(modules), self._known)]

    @property
    def num_found(self) -> int:
        """How many were found since they were named."""
        return len(self._found)

    def name(self) -> dict[str, int]:
        """Return the bytes, by name, of what was found since the last time and can be shared. Reads all of them."""
        named: dict[str, int] = {}
        found, self._found = self._found, []
        for tensor in (each() for each in found):
            if tensor is None:
                continue
            storage = tensor.untyped_storage()
            contents = pages.bytes_at(storage.data_ptr(), storage.nbytes())
            if not contents[0] and not _as_bytes(storage).any():
                continue  # zeros, for which the kernel may not even have made pages: a cache that is still empty
            name = f"{storage.nbytes()}-{xxhash.xxh3_128_hexdigest(contents)}"
            movable = storage.resizable()
            self._pieces.append(Piece(weakref.ref(tensor), name, storage.nbytes(), storage.data_ptr(), movable))
            if movable:
                named[name] = storage.nbytes()
        return named

    def write(self, names: Collection[str]) -> tuple[int, Places]:
        """Write pieces to a file for others to map, and use its pages; return it, open, with its places.

        Each piece's own memory is freed before the next one is written. Raises `OSError` where there is no memory.
        """
        chosen: dict[str, Piece] = {}
        for piece in self._pieces:
            if piece.name in names and not piece.own and self._storage(piece) is not None:
                chosen.setdefault(piece.name, piece)
        places: dict[str, int] = {}
        end = freed = 0
        file = pages.new_file(sum(pages.whole_pages(piece.num_bytes) for piece in chosen.values()))
        try:
            for name, piece in chosen.items():
                pages.write(file, end, piece.address, piece.num_bytes)
                if self._exchange(piece, file, end):
                    places[name] = end
                end += pages.whole_pages(piece.num_bytes)
                if end - freed > _FREED_BYTES:
                    pages.give_back_freed()
                    freed = end
            pages.seal(file)
        except BaseException:
            os.close(file)
            raise
        pages.give_back_freed()
        return file, places

    def share(self, file: int, places: Places) -> dict[str, int]:
        """Use the pages of a file, which is open, for pieces that it has; return their bytes by name.

        Those whose bytes have changed since they were looked at stay the job's own.
        """
        shared: dict[str, int] = {}
        for piece in self._pieces:
            offset = places.get(piece.name)
            if offset is None or piece.own:
                continue
            if piece.shared or self._exchange(piece, file, offset):
                shared[piece.name] = piece.num_bytes
        pages.give_back_freed()
        return shared

    def _exchange(self, piece: Piece, file: int, offset: int) -> bool:
        storage = self._storage(piece)
        if storage is None or not storage.resizable():
            return False
        block = pages.map_block(file, offset, piece.num_bytes)  # its own, also where another piece has the same bytes
        there = torch.frombuffer(block, dtype=torch.uint8).untyped_storage()
        if not pages.same_bytes(storage.data_ptr(), there.data_ptr(), piece.num_bytes):
            return False
        storage._swap_data_ptr_(there)  # type: ignore[attr-defined]  # it now is what was the job's memory
        piece.shared, piece.address = True, storage.data_ptr()
        if not others_rest():
            self._left.append(there)
        return True

    def written(self) -> list[str]:
        """Give back the pages of pieces that the job has written to; return their names, of which it has none now."""
        if self._left and others_rest():
            self._left.clear()
        gone: set[str] = set()
        for piece in self._pieces:
            if not piece.shared:
                continue
            there = self._storage(piece) is not None
            if there and not pages.is_written(piece.address, piece.num_bytes):
                continue
            if there:
                try:
                    pages.make_own(piece.address, piece.num_bytes)
                except OSError:  # no memory now: the copies that the kernel has made are as good
                    continue
            piece.shared, piece.own = False, True
            gone.add(piece.name)
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
        tensor = piece.tensor()
        if tensor is None:
            return None
        storage = tensor.untyped_storage()
        return storage if (storage.data_ptr(), storage.nbytes()) == (piece.address, piece.num_bytes) else None


def can_share() -> bool:
    """Whether what this takes is there."""
    return sys.platform == "linux" and STORAGE_SWAP.there


def frozen_tensors(modules: Iterable[nn.Module], known: dict[int, weakref.ref[Tensor]]) -> Iterator[Tensor]:
    """Yield a tensor for each storage that is frozen, large enough and not ``known``; know all of them afterwards."""
    tensors: dict[int, Tensor] = {}
    trained: set[int] = set()
    for module in modules:
        for each in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            for tensor in _plain(each):
                if not _is_large(tensor):
                    continue
                key = tensor.untyped_storage()._cdata
                tensors.setdefault(key, tensor)
                if each.requires_grad:
                    trained.add(key)
    for key, tensor in tensors.items():
        seen = known.get(id(tensor))
        if key not in trained and (seen is None or seen() is not tensor):
            known[id(tensor)] = weakref.ref(tensor)
            yield tensor


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


def _is_large(tensor: Tensor) -> bool:
    if nn.parameter.is_lazy(tensor) or tensor.layout != torch.strided:
        return False
    storage = tensor.untyped_storage()  # of a fake tensor, a storage without memory
    if storage.device.type != "cpu" or storage.nbytes() < SMALLEST_BYTES:
        return False
    return not storage.is_shared() and not (torch.cuda.is_initialized() and tensor.is_pinned())


def _as_bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def others_rest() -> bool:
    """Whether every other thread waits inside of Python's library, or is Motet's.

    Only then has none of them an operation of torch's under way, which may hold the address of a weight.
    """
    here = threading.get_ident()
    return all(_rests(frame.f_code.co_filename) for thread, frame in sys._current_frames().items() if thread != here)


_LIBRARY = sysconfig.get_path("stdlib") + os.sep
_PACKAGES = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))
_MOTET = os.path.dirname(os.path.dirname(__file__)) + os.sep


def _rests(file: str) -> bool:
    return file.startswith(_MOTET) or (file.startswith(_LIBRARY) and not file.startswith(_PACKAGES))


def has_grown(allocated: int | None) -> bool:
    """Whether enough was allocated since then that there may be frozen weights: looking for them takes time."""
    now = pages.allocated_bytes()
    return now is None or allocated is None or now - allocated >= SMALLEST_BYTES


def modules_here() -> Iterator[nn.Module]:
    """Yield all modules of this process, wherever they are kept: a teacher is not wrapped in anything."""
    for each in gc.get_objects():
        if issubclass(type(each), nn.Module):  # not isinstance, which some objects answer with code of their own
            yield each
