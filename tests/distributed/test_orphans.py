"""A launcher that is killed leaves no process, whenever that happens and whatever its jobs have started."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tests.distributed.command import Place

SCRIPT = """
import multiprocessing, pathlib, subprocess, sys, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

if __name__ == "__main__":
    dist.init_process_group("gloo")
    model = DistributedDataParallel(torch.nn.Linear(4, 1))
    batches = iter(DataLoader(torch.randn(10_000_000, 4), batch_size=8, num_workers=2))
    subprocess.Popen(["sleep", "1000"])
    multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,)).start()
    model(next(batches)).sum().backward()
    pathlib.Path(sys.argv[1]).touch()
    while True:
        model(next(batches)).sum().backward()
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "train.py").write_text(SCRIPT)
    return Place(tmp_path)


def left_after(place: Place, launcher: subprocess.Popen[str]) -> list[list[str]]:
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + 5.0
    while (left := list(place.processes())) and time.monotonic() < deadline:
        time.sleep(0.05)
    notices = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            notices.append(process.cmdline())
    place.close()
    launcher.communicate()
    return notices


def test_nothing_outlives_a_launcher_that_is_killed(place: Place) -> None:
    process = place.start("run", "--nproc-per-node=2", "train.py", "--each=a", "--each=b", "--run-dir=out")
    place.wait_until("a", process)
    place.wait_until("b", process)
    assert len(list(place.processes())) > 10
    assert left_after(place, process) == []


def test_nothing_outlives_a_launcher_that_is_killed_in_its_first_seconds(place: Place) -> None:
    moment = 0.05
    while moment < 3.0:
        process = place.start("run", "--nproc-per-node=2", "train.py", "--each=a", "--each=b")
        time.sleep(moment)
        assert left_after(place, process) == [], moment
        moment *= 1.5
