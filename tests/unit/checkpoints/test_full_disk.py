"""A disk that fills while a checkpoint is written: the whole new one, or an error and the one before."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from motet.checkpoints import Checkpoints, Found
from motet.errors import CheckpointError

PAGE = 4096
SIZES = {"shared": 380_000, "worker-0": 60_000}  # floats; the first is more than is written at once


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a file system of 8 MB in memory."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=64", "none", str(path)],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small file system: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def free_bytes(disk: Path) -> int:
    stat = os.statvfs(disk)
    return stat.f_bavail * stat.f_bsize


def leave(disk: Path, num_bytes: int) -> None:
    """Fill the disk until ``num_bytes`` are free."""
    (disk / "ballast").write_bytes(b"")
    with open(disk / "ballast", "wb", buffering=0) as ballast:
        while (surplus := free_bytes(disk) - num_bytes) > 0:
            ballast.write(b"\0" * surplus)


def write(checkpoints: Checkpoints, turn: int) -> Found:
    parts = [
        checkpoints.write_part(turn, name, {"weight": torch.full((size,), float(turn))}) for name, size in SIZES.items()
    ]
    return checkpoints.commit(turn, parts)


def check_good(checkpoints: Checkpoints, turn: int) -> None:
    found = checkpoints.latest()
    assert found is not None
    assert found.turn == turn
    assert checkpoints.problems == ()
    for name, size in SIZES.items():
        assert torch.equal(checkpoints.load(found, name)["weight"], torch.full((size,), float(turn)))


def test_every_amount_of_space(disk: Path) -> None:
    checkpoints = Checkpoints(disk, "narrow", worker=0, num_workers=1)
    free = free_bytes(disk)
    write(checkpoints, 1)
    needed = free - free_bytes(disk)
    # Coarsely over the whole range, and page by page where the end of each file and the manifest meet the limit.
    part = SIZES["shared"] * 4 + PAGE
    limits = {*range(0, needed, 12 * PAGE)}
    limits |= {end + pages * PAGE for end in (part // PAGE * PAGE, needed // PAGE * PAGE) for pages in range(-4, 3)}
    failures: list[CheckpointError] = []
    turn = 1
    for limit in sorted(limits):
        leave(disk, limit)
        try:
            write(checkpoints, turn + 1)
            turn += 1
        except CheckpointError as error:
            failures.append(error)  # and while it is kept, none of the disk is
            remains = limit - free_bytes(disk)
            assert remains == 0, "of this write, whatever it raised"
        (disk / "ballast").unlink()
        check_good(checkpoints, turn)
        assert not [name for name in os.listdir(checkpoints.directory) if name.startswith(".")]
    assert len(failures) > len(limits) // 2
    assert turn > 1, "with enough space it is written"
    for text in map(str, failures):
        assert "the checkpoint of job 'narrow' at turn 2 could not be written" in text
        assert "MB were free there" in text
        assert "Free some space" in text


def test_no_file_can_be_made(disk: Path) -> None:
    checkpoints = Checkpoints(disk, "narrow", worker=0, num_workers=1, keep=1)
    write(checkpoints, 1)
    others = 0
    try:
        while True:
            (disk / f"other-{others}").touch()
            others += 1
    except OSError:
        pass
    for freed in range(1, 6):
        (disk / f"other-{freed}").unlink()
        try:
            write(checkpoints, 2)
        except CheckpointError:
            check_good(checkpoints, 1)
        else:
            check_good(checkpoints, 2)
            break
    else:
        pytest.fail("it was never written")
    assert freed > 1, "it failed at least once"
