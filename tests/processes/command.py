"""Programs run by torchrun and by ``motet run --house process``, and what they have left in files, side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from tests.distributed.command import LONGEST_SECONDS, Place

HOUSE = "--house=process"
TRAINS = Path(__file__).with_name("train_script.py")


@contextmanager
def place_in(path: Path) -> Iterator[Place]:
    """Yield a folder in which commands are run; nothing of them outlives it."""
    path.mkdir(parents=True, exist_ok=True)
    place = Place(path)
    try:
        yield place
    finally:
        place.close()


def torchrun(place: Place, num_workers: int, script: Path, *words: str, options: Sequence[str] = ()) -> str:
    """Run a script as it runs alone; return what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_workers}"]
    for _ in range(3):
        done = subprocess.run(
            [*command, *options, str(script), *words],
            check=False, cwd=place.path, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=LONGEST_SECONDS,
        )  # fmt: skip
        if "Signal 6 (SIGABRT)" not in done.stdout:  # alone, torch aborts now and then when it ends
            break
    assert done.returncode == 0, done.stdout
    return done.stdout


def words_of(num_workers: int, script: Path, each: Sequence[str], *more: str) -> list[str]:
    """Return the words of a run of a script's jobs in processes of their own."""
    jobs = [f"--each={arguments}" for arguments in each]
    return ["run", f"--nproc-per-node={num_workers}", HOUSE, str(script), *jobs, "--run-dir=out", *more]


def train_words(place: Place, jobs: Mapping[str, Mapping[str, object]], *more: str) -> list[str]:
    """Return the words of a run, with two workers, of jobs of ``train_script.py``, each with a folder of its own."""
    content = {}
    for name, arguments in jobs.items():
        (place.path / name).mkdir(exist_ok=True)
        content[name] = {"script": str(TRAINS), "args": {"out": f"{name}/w", **arguments}}
    (place.path / "jobs.yaml").write_text(json.dumps({"jobs": content}))
    return ["run", "--nproc-per-node=2", HOUSE, "jobs.yaml", "--run-dir=out", *more]


def trained_alone(path: Path, **arguments: object) -> dict[str, bytes]:
    """Return what ``train_script.py`` leaves that runs alone under torchrun, uninterrupted."""
    with place_in(path) as place:
        torchrun(place, 2, TRAINS, "--out=w", *(f"--{name}={value}" for name, value in arguments.items()))
        left = weights(place.path)
        assert len(left) == 2
        return left


def bytes_of(path: Path, pattern: str) -> dict[str, bytes]:
    """Return what is in the files of a folder."""
    return {file.name: file.read_bytes() for file in sorted(path.glob(pattern))}


def weights(folder: Path) -> dict[str, bytes]:
    """Return what a job of ``train_script.py`` has left in its folder."""
    return bytes_of(folder, "w.*.pt")


def job_processes(launcher: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the processes of jobs, of all workers: what the warm parents have forked."""
    found: list[psutil.Process] = []
    with suppress(psutil.Error):
        for worker in psutil.Process(launcher.pid).children():
            with suppress(psutil.Error):
                found += [job for parent in worker.children() for job in parent.children()]
    return found
