"""A process that a job forks is a plain one: its signals, its process group and its end are its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = '''
import json, multiprocessing, os, pathlib, signal, sys, threading
import torch.distributed as dist
from motet.testing import tiny_job

context = multiprocessing.get_context("fork")
found = {}

def ended(act=signal.pause, before=lambda: None):
    """Start a child, send it SIGTERM when it is about to act, and return its exit status."""
    reading, writing = context.Pipe(duplex=False)
    def child():
        before()
        writing.send("ready")
        while True:
            act()
    process = context.Process(target=child)
    process.start()
    assert reading.recv() == "ready"
    process.terminate()
    process.join(20)
    late = process.exitcode is None
    process.kill()
    process.join()
    return "late" if late else process.exitcode

def in_child(function):
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=lambda: send.send(function()))
    process.start()
    process.join()
    return receive.recv() if process.exitcode == 0 else process.exitcode

def in_thread(function):
    told = []
    thread = threading.Thread(target=lambda: told.append(function()))
    thread.start()
    thread.join()
    return told[0]

def group_of_its_own():
    meeting = pathlib.Path(sys.argv[1]).absolute().with_suffix(".meeting").as_uri()
    dist.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    told = dist.get_world_size()
    dist.barrier()
    dist.destroy_process_group()
    return told

def alone():
    child = os.fork()
    if child == 0:
        print("said by a child")
        sys.exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def exit_with(status):
    return lambda *_: os._exit(status)

found["makes a group"] = in_child(group_of_its_own)
dist.init_process_group("gloo")
tiny_job(steps=2)
found["default"] = ended()
found["default, of a thread"] = in_thread(ended)
found["interrupted"] = in_child(lambda: signal.getsignal(signal.SIGINT) is signal.default_int_handler)
found["wakeup"] = in_child(lambda: signal.set_wakeup_fd(-1))
found["its own"] = ended(before=lambda: signal.signal(signal.SIGTERM, exit_with(7)))
signal.signal(signal.SIGTERM, exit_with(9))
found["the job's"] = ended()
found["the job's, of a thread"] = in_thread(ended)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
with context.Pool(2) as pool:
    found["pool"] = pool.map(abs, [-1, 2, -3])
found["exits"] = alone()
tiny_job(steps=2)
pathlib.Path(sys.argv[1]).write_text(json.dumps(found))
'''
EXPECTED = {
    "makes a group": 1,
    "default": -15,
    "default, of a thread": -15,
    "interrupted": True,
    "wakeup": -1,
    "its own": 7,
    "the job's": 9,
    "the job's, of a thread": 9,
    "pool": [1, 2, 3],
    "exits": 5,
}


@pytest.mark.parametrize("house", ["together", pytest.param("process", marks=pytest.mark.slow)])
def test_a_forked_process_is_a_plain_one(tmp_path: Path, house: str) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "motet", "run", "--nproc-per-node=1", "train.py", "--each=a", "--each=b"]
    command.append(f"--house={house}")
    ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    for name in ("a", "b"):
        assert json.loads((tmp_path / name).read_text()) == EXPECTED
    assert ran.stdout.count("said by a child") == 2
