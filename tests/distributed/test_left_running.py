"""A job's end is a process's end: what it has left running is waited for, however it ended, as Python does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import concurrent.futures, multiprocessing, os, pathlib, sys, threading, time
import torch
import torch.distributed as dist
from motet.testing import tiny_job

place, ending = pathlib.Path(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo")
rank = dist.get_rank()
tiny_job(steps=3)
idle = concurrent.futures.ThreadPoolExecutor(1)
idle.submit(int).result()

def save(name):
    time.sleep(0.5)
    assert sys.argv[1] == str(place)
    pathlib.Path(f"{place}-{name}-{rank}").write_text("whole")

def talk():
    for _ in range(3):
        dist.all_reduce(torch.ones(1))
        time.sleep(0.2 + 0.1 * rank)
    threading.Thread(target=save, args=("thread",)).start()

threading.Thread(target=talk).start()
concurrent.futures.ThreadPoolExecutor(1).submit(save, "pool")
multiprocessing.get_context("fork").Process(target=save, args=("process",)).start()
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
if ending == "fails":
    raise SystemExit(3)
"""


def test_what_a_job_has_left_running_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    each = ["--each=ends well", "--each=fails fails"]
    command = [sys.executable, "-m", "motet", "run", "--nproc-per-node=2", "train.py", *each, "--run-dir=out"]
    ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100)
    assert ran.returncode in (0, 1), ran.stderr
    assert "exit status 3" in ran.stderr
    for job in ("ends", "fails"):
        found = sorted(path.name for path in tmp_path.glob(f"{job}-*"))
        assert found == sorted(f"{job}-{name}-{rank}" for name in ("thread", "pool", "process") for rank in (0, 1))


STUCK = """
import queue, sys, threading
import torch.distributed as dist
from motet.testing import tiny_job

dist.init_process_group("gloo")
if sys.argv[1] != "goes_on":
    batches = queue.Queue(1)
    threading.Thread(target=lambda: [batches.put(number) for number in range(9)], name="producer").start()
tiny_job(steps=40 if sys.argv[1] == "goes_on" else 3)
if sys.argv[1] == "fails":
    raise SystemExit(3)
"""


def test_a_thread_that_hangs_takes_no_other_job_along(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(STUCK)
    each = [f"--each={name}" for name in ("ends", "fails", "goes_on")]
    command = [sys.executable, "-m", "motet", "run", "--nproc-per-node=2", "train.py", *each, "--run-dir=out"]
    ran = subprocess.run(
        [*command, "--timeout=10"], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=90
    )
    assert ran.returncode == 1, ran.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    statuses = {name: (job["status"], job["turns"]) for name, job in results["jobs"].items()}
    assert statuses == {"ends": ("finished", 3), "fails": ("failed", 3), "goes_on": ("finished", 40)}
    given_up = [notice for notice in results["notices"] if "waited for no longer: producer" in notice]
    assert len(given_up) == 2, results["notices"]
