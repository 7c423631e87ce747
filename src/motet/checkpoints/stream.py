"""A file written once, from its beginning to its end, past the page cache and with a checksum made on the way.

What a checkpoint costs is processor time that the training would use. Written as usual, its bytes are copied into the
page cache, from there to the disk, and read again to be summed. Here the disk reads directly from memory, a piece at a
time, summed shortly before: from the data themselves where they lie in memory as in the file, counted in the disk's
blocks (`aligned_memory`), and from a copy of them elsewhere. See ADR 0016.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xxhash

BLOCK = 4096  # bytes; where direct writing begins and ends, in memory and in the file: a multiple of most disks' blocks
PIECE = 1 << 20  # bytes that are collected, and written together
IN_PLACE = 1 << 22  # bytes that are written together from where they are
LARGE = 1 << 20  # bytes: less is not worth a write of its own
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux

_Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class SummedFile:
    """A new file for ``torch.save`` to write to; at the end of the ``with`` block it is on the disk.

    ``size_bytes`` and ``xxh3_128`` are those of all that was handed over. An error of the disk raises when the block
    ends: ``torch.save`` calls `write` out of C++, which no exception must cross, and does not report each that does.
    """

    def __init__(self, path: Path) -> None:
        self.size_bytes = 0
        self._sum = xxhash.xxh3_128()
        self._error: OSError | None = None
        self._piece = aligned_memory(PIECE)
        self._filled = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)

    @property
    def xxh3_128(self) -> str:
        """The checksum, in hexadecimal."""
        return self._sum.hexdigest()

    def __enter__(self) -> SummedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._error is None and kind is None:
                self._write(self._collected())
                os.fsync(self._file)
        finally:
            os.close(self._file)
        if self._error is not None:
            raise self._error

    def write(self, data: bytes | memoryview) -> int:
        """Take all of ``data``."""
        rest = np.frombuffer(data, np.uint8)
        try:
            if self._error is None and len(rest) >= LARGE and self._lies_as_in_the_file(rest):
                rest = self._write_in_place(rest)
            while len(rest) and self._error is None:
                taken = rest[: PIECE - self._filled]
                # without the interpreter's lock: a niced thread that holds it may have to wait for a processor
                np.copyto(self._piece[self._filled : self._filled + len(taken)], taken)
                self._filled += len(taken)
                rest = rest[len(taken) :]
                if self._filled == PIECE:
                    self._write(self._collected())
        except OSError as failed:
            self._error = failed
        return len(data)

    def flush(self) -> None:
        """Do nothing, for ``torch.save``: what is not a whole piece yet is written at the end."""

    def _lies_as_in_the_file(self, data: _Bytes) -> bool:
        """Return whether ``data`` begins at a block, in memory and in the file."""
        return self._filled % BLOCK == 0 and data.ctypes.data % BLOCK == 0

    def _write_in_place(self, data: _Bytes) -> _Bytes:
        """Write the blocks of ``data`` from where they are, after what was collected; return what is less than one."""
        end = len(data) - len(data) % BLOCK
        for begin in range(0, end, IN_PLACE):
            self._write(self._collected(), data[begin : min(begin + IN_PLACE, end)].data)
        return data[end:]

    def _collected(self) -> memoryview:
        filled, self._filled = self._filled, 0
        return self._piece[:filled].data

    def _write(self, *parts: memoryview) -> None:
        """Sum and write ``parts`` together, without the interpreter's lock; directly, if they fill whole blocks."""
        rest = deque(part for part in parts if part)
        for part in rest:
            self._sum.update(part)
        num_bytes = sum(map(len, rest))
        self.size_bytes += num_bytes
        direct = num_bytes % BLOCK == 0 and self._set_direct(_DIRECT)
        while rest:
            try:
                written = os.writev(self._file, rest)
            except OSError as error:
                if not direct or error.errno not in (errno.EINVAL, errno.EFAULT):
                    raise
                direct = self._set_direct(0)  # the file system, or a driver's memory, takes part in copies only
                continue
            while rest and written >= len(rest[0]):
                written -= len(rest.popleft())
            if written:
                rest[0] = rest[0][written:]
        if direct:
            self._set_direct(0)

    def _set_direct(self, flag: int) -> bool:
        """Write directly to the disk from now on, or not; return whether it is so."""
        flags = fcntl.fcntl(self._file, fcntl.F_GETFL) & ~_DIRECT
        try:
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags | flag)
        except OSError:
            return False
        return bool(flag)


def aligned_memory(size_bytes: int) -> _Bytes:
    """Return memory, its content undefined, that begins at a block: a `SummedFile` can write from it without a copy."""
    memory = np.empty(size_bytes + BLOCK, np.uint8)
    begin = -memory.ctypes.data % BLOCK
    return memory[begin : begin + size_bytes]


def xxh3_128_of(path: Path) -> str:
    """Return the checksum of a file; the interpreter's lock is free for most of it."""
    total, buffer = xxhash.xxh3_128(), memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            total.update(buffer[:size])
    return total.hexdigest()
