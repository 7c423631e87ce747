"""A DataLoader worker stays through a stop that reaches every process, and ends when the job of its process is over."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal, time
from motet.intercept import loader_workers
loader_workers.follow_job()
reading, writing = os.pipe()
worker = os.fork()
if worker == 0:
    loader_workers.begin(lambda: None)
    os.write(writing, b"x")
    while True:
        time.sleep(60)
os.read(reading, 1)
os.kill(worker, signal.SIGTERM)
print(os.waitpid(worker, os.WNOHANG) == (0, 0))
loader_workers.job_over()
os.kill(worker, signal.SIGTERM)
deadline = time.monotonic() + 20
while (ended := os.waitpid(worker, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
    time.sleep(0.01)
os.kill(worker, signal.SIGKILL) if ended == (0, 0) else print(ended == (worker, 0))
"""


def test_a_worker_ends_with_its_job() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("True\nTrue\n", "")
