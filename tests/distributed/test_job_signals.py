"""A job's handlers and timers interrupt that job alone; what it sends to its own process is its own affair."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, signal, sys, threading, time, _thread
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

how, told = sys.argv[1], []
dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(64, 64))

class Late(Exception):
    pass

def note(number, frame):
    told.append(signal.Signals(number).name)
    assert sys.argv[1] == how, "in another job's turn"

def late(number, frame):
    note(number, frame)
    raise Late

def fork():
    if (child := os.fork()) == 0:
        signal.raise_signal(signal.SIGUSR1)
        os._exit(len(told))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def turns(number):
    for _ in range(number):
        model(torch.randn(16, 64)).square().mean().backward()
        time.sleep(0.002)

def until(happened, seconds=20):
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.001)  # in one turn: nobody else computes, and the handler runs at once

turns(2)
if how == "caught":
    before = signal.signal(signal.SIGALRM, late)
    assert before is signal.SIG_DFL and signal.getsignal(signal.SIGALRM) is late
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.05
    try:
        until(lambda: False)
    except Late:
        print("caught")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
elif how == "later":  # a longer timer than that of others, which end first
    signal.signal(signal.SIGALRM, note)
    assert signal.alarm(7) == 0 and signal.alarm(1) == 7
    until(lambda: told)
elif how == "often":
    signal.signal(signal.SIGALRM, note)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    until(lambda: len(told) > 5)
    signal.setitimer(signal.ITIMER_REAL, 0)
    told[:] = told[:1]
elif how == "processor":
    signal.signal(signal.SIGVTALRM, note)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.05)
    for _ in range(20):  # each for less than the timer, and for less than a tick of the system
        begin = time.process_time()
        while time.process_time() < begin + 0.004:
            pass
        turns(1)
elif how == "sent":
    signal.signal(signal.SIGUSR1, note)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert told == ["SIGUSR1"]
    assert fork() == 2
elif how == "interrupted":
    threading.Timer(0.05, _thread.interrupt_main).start()
    try:
        until(lambda: False)
    except KeyboardInterrupt:
        print("interrupted")
elif how == "pending":  # it comes in the others' turns
    signal.signal(signal.SIGUSR2, late)
    pid = os.getpid()
    threading.Thread(target=os.kill, args=(pid, signal.SIGUSR2)).start()
    try:
        turns(10_000)
    except Late:
        print("pending")
elif how == "fails":
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    until(lambda: False)
elif how == "fails_in_turns":
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    turns(10_000)
elif how == "watchdog":
    signal.alarm(1)
    until(lambda: False)
elif how == "itself":
    os.kill(os.getpid(), signal.SIGTERM)
turns(4)
print(how, "told", told)
"""
GOOD = {
    "caught": ["SIGALRM"],
    "later": ["SIGALRM"],
    "often": ["SIGALRM"],
    "processor": ["SIGVTALRM"],
    "sent": ["SIGUSR1"],
    "interrupted": [],
    "pending": ["SIGUSR2"],
    "calm": [],
}
BAD = {"fails": "Late", "fails_in_turns": "Late", "watchdog": "SIGALRM: ", "itself": "SIGTERM: "}


def test_signals_and_timers_are_the_jobs_own(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    each = [f"--each={how}" for how in (*GOOD, *BAD)]
    command = [sys.executable, "-m", "motet", "run", "--nproc-per-node=2", "train.py", *each, "--run-dir=out"]
    ran = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 1, ran.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())["jobs"]
    assert {name: job["status"] for name, job in results.items()} == {
        **dict.fromkeys(GOOD, "finished"),
        **dict.fromkeys(BAD, "failed"),
    }, ran.stderr
    for name, report in GOOD.items():
        assert f"{name} told {report}" in (tmp_path / "out" / "jobs" / name / "log.txt").read_text()
    for name in ("caught", "interrupted", "pending"):
        assert f"\n{name}\n" in "\n" + (tmp_path / "out" / "jobs" / name / "log.txt").read_text()
    for name, error in BAD.items():
        assert error in results[name]["error"]


LEFT = """
import signal, sys, time
import motet
from motet.testing import tiny_job

def handler(number, frame):
    raise AssertionError("of the program")

def loop():
    told = []
    signal.signal(signal.SIGALRM, lambda number, frame: told.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    deadline = time.monotonic() + 20
    while not told:  # in one turn, of a function
        assert time.monotonic() < deadline
    tiny_job(steps=3)

signal.signal(signal.SIGALRM, handler)
assert motet.run({"a": loop, "b": loop})["a"].status == "finished"
assert signal.getsignal(signal.SIGALRM) is handler
assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
"""


def test_a_program_finds_its_own_handlers_again() -> None:
    ran = subprocess.run([sys.executable, "-c", LEFT], check=False, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
