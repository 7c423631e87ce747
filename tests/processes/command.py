"""Programs run by torchrun and by ``motet run --house process``, and what they have left in files, side by side."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.distributed.command import LONGEST_SECONDS, Place

HOUSE = "--house=process"


@contextmanager
def place_in(path: Path) -> Iterator[Place]:
    """Yield a folder in which commands are run; nothing of them outlives it."""
    path.mkdir(parents=True, exist_ok=True)
    place = Place(path)
    try:
        yield place
    finally:
        place.close()


def torchrun(place: Place, num_workers: int, script: Path, *words: str) -> str:
    """Run a script as it runs alone; return what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_workers}"]
    done = subprocess.run(
        [*command, str(script), *words],
        check=False, cwd=place.path, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=LONGEST_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def words_of(num_workers: int, script: Path, each: Sequence[str], *more: str) -> list[str]:
    """Return the words of a run of a script's jobs in processes of their own."""
    jobs = [f"--each={arguments}" for arguments in each]
    return ["run", f"--nproc-per-node={num_workers}", HOUSE, str(script), *jobs, "--run-dir=out", *more]


def bytes_of(path: Path, pattern: str) -> dict[str, bytes]:
    """Return what is in the files of a folder."""
    return {file.name: file.read_bytes() for file in sorted(path.glob(pattern))}
