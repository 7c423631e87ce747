"""Files in memory whose pages several jobs read, each through a private mapping: who writes to a page gets its own.

The kernel does the copying (``MAP_PRIVATE``), so nothing that a job writes ever reaches the file, or another mapping of
it, and no write is missed: not one through ``.data``, a view, NumPy or C. The file is sealed once it is complete.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import weakref
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, ClassVar, TypeAlias

PAGE = mmap.PAGESIZE
_PRESENT, _OF_FILE = 1 << 63, 1 << 61  # bits of /proc/PID/pagemap: in memory; a file's page, not copied
_LOOKS = 8  # so many pages of a block are looked at
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2  # sys/mman.h
_MAP_FAILED = ctypes.c_void_p(-1).value
Block: TypeAlias = "ctypes.Array[ctypes.c_ubyte]"


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.restype = libc.mremap.restype = pointer
    libc.mmap.argtypes = [pointer, size, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    libc.mremap.argtypes = [pointer, size, size, ctypes.c_int, pointer]
    libc.munmap.argtypes = [pointer, size]
    libc.memcmp.argtypes = [pointer, pointer, size]
    return libc


@cache
def _libc_holding_lock() -> ctypes.PyDLL:
    """The C library, called without letting other threads of Python run."""
    libc = ctypes.PyDLL(None, use_errno=True)
    libc.mremap.restype, libc.mremap.argtypes = _libc().mremap.restype, _libc().mremap.argtypes
    return libc


def are_there() -> bool:
    """Whether Python was built for a system that has such files."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")


def bytes_at(address: int, num_bytes: int) -> memoryview:
    """Return memory as bytes that can be read; whoever calls keeps it alive."""
    return memoryview((ctypes.c_ubyte * num_bytes).from_address(address)).cast("B")


def address_of(block: Block) -> int:
    """Return where a block lies."""
    return ctypes.addressof(block)


def is_zero(address: int, num_bytes: int) -> bool:
    """Whether a piece of memory holds nothing but zeros."""
    first = bytes_at(address, 1)[0]
    return first == 0 and same_bytes(address, address + 1, num_bytes - 1)  # each byte is the one before it


def same_bytes(one: int, other: int, num_bytes: int) -> bool:
    """Whether two pieces of memory hold the same bytes."""
    return bool(_libc().memcmp(one, other, num_bytes) == 0)


def whole_pages(num_bytes: int) -> int:
    """Return how many bytes the pages have that hold so many."""
    return -(-num_bytes // PAGE) * PAGE


def new_file(num_bytes: int) -> int:
    """Return an empty file in memory, open; it takes up what is written to it."""
    file = os.memfd_create("motet-frozen-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, num_bytes)
    except BaseException:
        os.close(file)
        raise
    return file


def write(file: int, offset: int, address: int, num_bytes: int) -> None:
    """Write a block of memory to a file. Raises `OSError` where there is no memory for it."""
    rest = bytes_at(address, num_bytes)
    while rest:
        written = os.pwrite(file, rest[: 1 << 30], offset)
        rest, offset = rest[written:], offset + written


def seal(file: int) -> None:
    """Let nobody change a file any more."""
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)


def map_block(file: int, offset: int, num_bytes: int) -> Block:
    """Return a block of a file, mapped privately: what is written there is nobody else's.

    Each call maps it anew, at an address of its own. Python's `mmap.mmap` would keep a file open for each.
    """
    libc, size = _libc(), whole_pages(num_bytes)
    address = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, file, offset)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "frozen weights cannot be mapped")
    block = (ctypes.c_ubyte * num_bytes).from_address(address)
    weakref.finalize(block, libc.munmap, address, size).atexit = False  # who ends goes on reading meanwhile
    return block


def is_written(address: int, num_bytes: int) -> bool:
    """Whether a block of a mapped file has been written to, as far as some of its pages show.

    Weights that train, or follow others that do, are written all over; a block of which the job has changed a row keeps
    sharing the rest.
    """
    num_pages = -(-num_bytes // PAGE)
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            found = [_entry(pagemap.fileno(), address // PAGE + page) for page in _spread(num_pages)]
    except (OSError, struct.error):  # a kernel, or a sandbox, that does not show it
        return False
    return all(entry & _PRESENT and not entry & _OF_FILE for entry in found)


def _spread(num_pages: int) -> Iterator[int]:
    for look in range(min(_LOOKS, num_pages)):
        yield look * (num_pages - 1) // max(1, min(_LOOKS, num_pages) - 1)


def _entry(pagemap: int, page: int) -> int:
    return int(struct.unpack("Q", os.pread(pagemap, 8, 8 * page))[0])


def make_own(address: int, num_bytes: int, at_once: Callable[[Callable[[], Any]], list[Any] | None]) -> bool:
    """Have a block of a mapped file be ordinary memory, at the same address and with the same bytes.

    Return whether that was done. ``at_once`` makes the last call, if nobody has written to the block since it was
    copied. Raises `OSError` where there is no memory for it.
    """
    libc, size = _libc(), whole_pages(num_bytes)
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    fresh = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, kind, -1, 0)
    if fresh == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), "no memory for weights that a job has written to")
    ctypes.memmove(fresh, address, num_bytes)
    how = _MREMAP_MAYMOVE | _MREMAP_FIXED
    done = at_once(partial(_libc_holding_lock().mremap, fresh, size, size, how, address))
    if done == [address]:
        return True
    libc.munmap(fresh, size)
    if done is None:
        return False
    raise OSError(ctypes.get_errno(), "weights that a job has written to cannot be moved")


def give_back_freed() -> None:
    """Have the C library return memory to the system that was freed; it keeps what lies between other blocks."""
    trim = getattr(_libc(), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


_COUNTS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"


class _Allocated(ctypes.Structure):
    """What glibc's ``mallinfo2`` returns. ``hblkhd``: in mappings of their own, ``uordblks``: in use elsewhere."""

    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in _COUNTS.split()]


def allocated_bytes() -> int | None:
    """Return how much of the C library's memory is in use; None where it does not report it, or is not asked."""
    return _allocated() if _counts_all() else None


@cache
def _counts_all() -> bool:
    """Whether memory that is allocated is counted: another library may have taken its place (jemalloc, for one)."""
    libc, size = _libc(), 1 << 24
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    if getattr(libc, "mallinfo2", None) is None:  # glibc 2.33
        return False
    before, place = _allocated(), libc.malloc(size)
    counted = _allocated() - before >= size
    libc.free(place)
    return counted


def _allocated() -> int:
    ask = _libc().mallinfo2
    ask.restype = _Allocated
    counts = ask()
    return int(counts.hblkhd + counts.uordblks)
