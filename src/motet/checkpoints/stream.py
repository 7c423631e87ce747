"""A file written once, from its beginning to its end, past the page cache and with a checksum made on the way.

What a checkpoint costs is processor time that the training would use. Written as usual, its bytes are copied into the
page cache, from there to the disk, and read again to be summed. Here each piece is copied once, into memory that the
disk can read from directly, and summed while it is in the processor's cache. See ADR 0016.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash

PIECE = 1 << 20  # bytes; a multiple of the blocks of every disk
_DIRECT = getattr(os, "O_DIRECT", 0)  # Linux


class SummedFile:
    """A new file for ``torch.save`` to write to; at the end of the ``with`` block it is on the disk.

    ``size_bytes`` and ``xxh3_128`` are those of all that was handed over. An error of the disk raises when the block
    ends: ``torch.save`` calls `write` out of C++, which no exception must cross, and does not report each that does.
    """

    def __init__(self, path: Path) -> None:
        self.size_bytes = 0
        self._sum = xxhash.xxh3_128()
        self._error: OSError | None = None
        self._piece = np.frombuffer(mmap.mmap(-1, PIECE), np.uint8)  # begins at a page, as direct writing needs it
        self._filled = 0
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

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
                self._write_piece()
                os.fsync(self._file)
        finally:
            os.close(self._file)
        if self._error is not None:
            raise self._error

    def write(self, data: bytes | memoryview) -> int:
        """Take all of ``data``."""
        rest = np.frombuffer(data, np.uint8)
        try:
            while len(rest) and self._error is None:
                taken = rest[: PIECE - self._filled]
                # without the interpreter's lock: a niced thread that holds it may have to wait for a processor
                np.copyto(self._piece[self._filled : self._filled + len(taken)], taken)
                self._filled += len(taken)
                rest = rest[len(taken) :]
                if self._filled == PIECE:
                    self._write_piece()
        except OSError as failed:
            self._error = failed
        return len(data)

    def flush(self) -> None:
        """Do nothing, for ``torch.save``: what is not a whole piece yet is written at the end."""

    def _write_piece(self) -> None:
        """Sum and write what is there, without the interpreter's lock."""
        piece, self._filled = self._piece[: self._filled].data, 0
        self._sum.update(piece)
        self.size_bytes += len(piece)
        direct = len(piece) == PIECE and self._set_direct(_DIRECT)
        while piece:
            try:
                piece = piece[os.write(self._file, piece) :]
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise
                direct = self._set_direct(0)  # the file system takes it into its cache only
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


def xxh3_128_of(path: Path) -> str:
    """Return the checksum of a file; the interpreter's lock is free for most of it."""
    total, buffer = xxhash.xxh3_128(), memoryview(bytearray(PIECE))
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            total.update(buffer[:size])
    return total.hexdigest()
