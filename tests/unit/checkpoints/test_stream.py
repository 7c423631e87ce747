"""What is written to a summed file is in it, and the sum is that of what is in it."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import serialization

from motet.checkpoints import Checkpoints, Writer, snapshot, stream
from motet.checkpoints.stream import BLOCK, LARGE, PIECE, SummedFile, aligned_memory, xxh3_128_of

SIZES = [BLOCK, LARGE, LARGE + 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE]
sizes = st.lists(st.integers(0, 3 * PIECE) | st.sampled_from(SIZES), max_size=4)


def bytes_at(offset: int, size: int) -> memoryview:
    """Return random bytes that begin so far behind a block's beginning."""
    memory = aligned_memory(offset + size)[offset:]
    memory[:] = np.frombuffer(os.urandom(size), np.uint8)
    return memory.data


def check(path: Path, sizes: list[int], offsets: Sequence[int] = (1,)) -> None:
    """Write so many bytes at a time, from memory so far behind a block; assert that all are there and summed."""
    chunks = [bytes_at(offset, size) for size, offset in zip(sizes, itertools.cycle(offsets))]
    with SummedFile(path) as file:
        for chunk in chunks:
            assert file.write(chunk) == len(chunk)
    whole = b"".join(chunks)
    assert path.read_bytes() == whole
    assert file.size_bytes == len(whole)
    assert file.xxh3_128 == xxhash.xxh3_128_hexdigest(whole) == xxh3_128_of(path)


@settings(max_examples=30, deadline=None)
@given(sizes, st.lists(st.sampled_from([0, 0, 1, BLOCK]), min_size=1))
def test_all_is_written_and_summed(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], offsets: list[int]
) -> None:
    check(tmp_path_factory.mktemp("stream") / "file", sizes, offsets)


@pytest.mark.parametrize("offset", [0, 1])
def test_most_of_it_goes_past_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    writev, direct, refused = os.writev, [], []

    def noting(file: int, parts: Any) -> int:
        asked = bool(stream.fcntl.fcntl(file, stream.fcntl.F_GETFL) & os.O_DIRECT)
        try:
            written = writev(file, parts)
        except OSError:
            refused.append(parts)
            raise
        if asked:
            direct.append(written)
        return written

    monkeypatch.setattr(stream.os, "writev", noting)
    with open(tmp_path / "probe", "wb") as probe:
        try:
            stream.fcntl.fcntl(probe, stream.fcntl.F_SETFL, os.O_DIRECT)
            writev(probe.fileno(), [aligned_memory(PIECE).data])
        except OSError:
            pytest.skip("the file system of the temporary folder takes no direct writes")
    check(tmp_path / "file", [2 * PIECE + 1], [offset])
    assert sum(direct) == 2 * PIECE
    assert not refused


def test_a_snapshot_is_written_from_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copyto, copied = np.copyto, []

    def noting(to: Any, data: Any) -> None:
        copied.append(len(data))
        copyto(to, data)

    monkeypatch.setattr(stream.np, "copyto", noting)
    tensors = {"a": torch.randn(LARGE), "step": torch.tensor(1.0), "b": torch.randn(3, LARGE + 7, dtype=torch.float64)}
    part = Checkpoints(tmp_path, "a", worker=0, num_workers=1).write_part(1, "shared", snapshot(tensors))
    assert 0 < sum(copied) < part.size_bytes / 100
    loaded = torch.load(next(tmp_path.rglob("shared.pt")), weights_only=True)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(
    ("where", "why"), [("asked for", errno.EINVAL), ("written", errno.EINVAL), ("written", errno.EFAULT)]
)
def test_a_file_system_without_direct_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, why: int, offset: int
) -> None:
    fcntl, writev = stream.fcntl.fcntl, os.writev
    refused = []

    def refuse(file: int) -> None:
        refused.append(file)
        raise OSError(why, "no direct writes here")

    def other_fcntl(file: int, command: int, flags: int = 0) -> Any:
        if where == "asked for" and command == stream.fcntl.F_SETFL and flags & os.O_DIRECT:
            refuse(file)
        return fcntl(file, command, flags)

    def other_writev(file: int, parts: Any) -> int:
        if where == "written" and fcntl(file, stream.fcntl.F_GETFL) & os.O_DIRECT:
            refuse(file)
        data = b"".join(parts)
        return writev(file, [data[: len(data) // 2 + 1]])  # and not all at once

    monkeypatch.setattr(stream.fcntl, "fcntl", other_fcntl)
    monkeypatch.setattr(stream.os, "writev", other_writev)
    check(tmp_path / "file", [BLOCK, 3 * PIECE + 5], [offset])
    assert len(refused) == (3 if offset else 1), "each time that it is written together"


@pytest.mark.parametrize("size", [100, PIECE + 100])
def test_an_error_of_the_disk_is_raised_at_the_end_and_the_file_closed(size: int) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    before = len(os.listdir("/proc/self/fd"))
    file = SummedFile(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"), file:
        torch.save({"weight": torch.zeros(size)}, cast("IO[bytes]", file))
    assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_is_written_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def full(file: int, parts: Any) -> int:
        tried.append(sum(map(len, parts)))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(stream.os, "writev", full)
    file = SummedFile(tmp_path / "file")
    with pytest.raises(OSError, match="No space left"), file:
        assert [file.write(bytes_at(0, PIECE)) for _ in range(2)] == [PIECE, PIECE]
    assert tried == [PIECE]


def test_an_error_of_whoever_writes_comes_out(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError), SummedFile(tmp_path / "file"):
        raise ZeroDivisionError
    assert len(os.listdir("/proc/self/fd")) == before


def write_in_background(checkpoints: Checkpoints, payload: object) -> None:
    writer = Writer()
    writer.write(checkpoints, 1, {"shared": payload})
    (done,) = writer.close()
    assert done.error is None


def options_of_saving() -> tuple[bool, int]:
    return torch.serialization.get_crc32_options(), serialization.config.save.storage_alignment


@pytest.mark.parametrize("chosen", [(True, 64), (False, 128)])
def test_the_users_own_torch_save_keeps_its_options(tmp_path: Path, chosen: tuple[bool, int]) -> None:
    checkpoints = Checkpoints(tmp_path, "a", worker=0, num_workers=1)
    before = options_of_saving()
    torch.serialization.set_crc32_options(chosen[0])
    serialization.config.save.storage_alignment = chosen[1]
    try:
        seen = set()
        checkpoints._at_moment = lambda moment: seen.add(options_of_saving())
        checkpoints.write_part(1, "shared", {})
        assert options_of_saving() == chosen
        assert seen == {chosen}, "they are changed for torch.save alone"
        checkpoints._at_moment = lambda moment: None
        thread = threading.Thread(target=write_in_background, args=(checkpoints, {"weight": torch.zeros(10_000_000)}))
        thread.start()
        while thread.is_alive():
            assert options_of_saving() == chosen
            time.sleep(0.001)
        thread.join()
    finally:
        torch.serialization.set_crc32_options(before[0])
        serialization.config.save.storage_alignment = before[1]


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="Linux alone has a priority of each thread's own")
def test_the_thread_that_writes_gives_way_and_no_other_does(tmp_path: Path) -> None:
    priorities = set()

    def note(moment: str) -> None:
        priorities.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    write_in_background(Checkpoints(tmp_path, "a", worker=0, num_workers=1, at_moment=note), {})
    assert priorities == {19}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
