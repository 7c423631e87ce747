"""What gives the turn away, and what is over before it begins. In a process of its own: nothing is put back."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import contextlib, queue, subprocess, sys, threading, time
from concurrent.futures import Future, ThreadPoolExecutor

from motet.processes import waits


class Turns:
    can_wait = True
    num_away = 0

    @contextlib.contextmanager
    def away(self):
        self.num_away += 1
        self.can_wait = False  # what waits inside is no wait of its own
        try:
            yield
        finally:
            self.can_wait = True


def given_away(call):
    before = turns.num_away
    with contextlib.suppress(queue.Empty):
        call()
    return turns.num_away - before


turns = Turns()
waits.patch(turns)
done, ended, filled = Future(), threading.Thread(target=int), queue.Queue()
done.set_result(1)
ended.start()
while ended.is_alive():
    pass
filled.put(1)
child = subprocess.Popen([sys.executable, "-c", ""])
while child.poll() is None:
    pass
over = [done.result, ended.join, filled.get, child.wait, lambda: filled.get(block=False), lambda: time.sleep(0)]
print([given_away(call) for call in over])
lasts = threading.Thread(target=time.sleep.__wrapped__, args=(0.2,))
lasts.start()
pool = ThreadPoolExecutor()
future = pool.submit(time.sleep.__wrapped__, 0.2)
runs = subprocess.Popen(["sleep", "0.2"])
last = [lasts.join, future.result, runs.wait, lambda: queue.Queue().get(timeout=0.01), lambda: time.sleep(0.01)]
print([given_away(call) for call in last])
"""


def test_what_is_over_keeps_the_turn() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    over, lasts = done.stdout.splitlines()
    assert over == "[0, 0, 0, 0, 0, 0]"
    assert lasts.startswith("[1, "), lasts
    assert lasts.endswith("1, 1]"), lasts
