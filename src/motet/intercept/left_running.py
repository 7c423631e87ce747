"""What a job has left running when its loop has ended, and what a process would wait for at its end.

Non-daemon threads; thread and process pools while they have work; child processes that the job's own code has started.
A pool that idles is ended by Python itself at a process's end; here it may be another job's as well, so it stays.
"""

from __future__ import annotations

import concurrent.futures.thread
import multiprocessing.process
import sys
import threading
import time
from collections.abc import Callable, Iterable

LOOK_EVERY_SECONDS = 0.01
NOTIFY_AFTER_SECONDS = 3.0
FAILED_SECONDS = 60.0  # for what a job that has failed has left: often a producer that nobody consumes from any more
_LEFT = (
    "has come to its end, but has left running what a process waits for: {}. All other jobs wait for it, too. "
    "Join threads and processes in the loop, with motet.current_job().yield_turn() in between."
)
_GIVEN_UP = "has ended, and what it has left running has not, and is waited for no longer: {}. The other jobs go on."
_POOLS = concurrent.futures.thread.__file__


def wait_for(
    find: Callable[[], list[str]], seconds_left: Callable[[], float], notify_user: Callable[[str], None]
) -> None:
    """Block until ``find`` finds nothing twice in a row: a pool's thread that takes work looks idle for an instant.

    Not longer than ``seconds_left()``, which may change meanwhile. A long wait is reported, once, and so is its giving
    up.
    """
    begin, notified, num_nothing = time.monotonic(), False, 0
    while num_nothing < 2 and seconds_left() > 0:
        found = find()
        num_nothing = 0 if found else num_nothing + 1
        if found and not notified and time.monotonic() - begin > NOTIFY_AFTER_SECONDS:
            notified = True
            notify_user(_LEFT.format(", ".join(sorted(found))))
        if found or num_nothing < 2:
            time.sleep(LOOK_EVERY_SECONDS)
    if found := find():
        notify_user(_GIVEN_UP.format(", ".join(sorted(found))))


def at_work(threads: Iterable[threading.Thread]) -> list[str]:
    """Return the names of those threads for which a process would not end."""
    return [thread.name for thread in threads if thread.is_alive() and not thread.daemon and not _idles(thread)]


def alive(children: Iterable[multiprocessing.process.BaseProcess]) -> list[str]:
    """Return the names of those child processes for which their parent would not end."""
    return [child.name for child in children if not child.daemon and child.is_alive()]


def _idles(thread: threading.Thread) -> bool:
    """Whether a thread is a pool's, and waits for work."""
    pending = getattr(thread, "pending_work_items", None)  # of a pool of processes: its manager
    if pending is not None:
        return not pending
    queue = concurrent.futures.thread._threads_queues.get(thread)
    if queue is None or not queue.empty():
        return False
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code.co_filename == _POOLS and frame.f_code.co_name == "_worker"
