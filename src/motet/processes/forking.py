"""What the warm parent does: it forks a process for each job, and reports how each ends.

It imports nothing more, starts no thread and computes nothing, so that what it forks begins as clean as a fresh
interpreter, in milliseconds, and shares the memory of all that is imported. A job whose environment differs (``env:``)
is started anew instead: what is imported may have read the environment.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from motet.parent import end_with_parent
from motet.processes.job_messages import Exited, Forked, FromParent, Start
from motet.processes.messages import pack, unpack
from motet.processes.start import become

SEARCH = ""
"""Under this name, which no job has, the warm parent holds what trains the jobs of a search."""


def serve(control: socket.socket, calls: Mapping[str, Callable[..., object]]) -> NoReturn:
    """Fork jobs until the worker has gone. In a forked job: run it, and end as a program of its own ends."""
    # Meant for all processes of the run: the worker decides.
    decided = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers: dict[int, Any] = {number: signal.signal(number, signal.SIG_IGN) for number in decided}
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    unread: bytes = b""
    files: list[int] = []
    watched = select.poll()
    for file in (control.fileno(), woken):
        watched.register(file, select.POLLIN)
    while True:
        ready = [file for file, _ in watched.poll()]
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            _reap(control)
        if control.fileno() not in ready:
            continue
        data, received, _, _ = socket.recv_fds(control, 1 << 20, 16)
        if not data:
            os._exit(0)
        unread, files = unread + data, files + received
        while b"\n" in unread:
            line, _, unread = unread.partition(b"\n")
            passed, files = files[:3], files[3:]
            pid = os.fork()
            if pid == 0:
                control.close()
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.close(woken)
                os.close(wakes)
                end_with_parent()
                start = unpack(line)
                assert isinstance(start, Start)
                become(start, passed, calls.get(SEARCH if start.given is not None else start.name), handlers)
            _report(control, Forked(pid))
            for file in passed:
                os.close(file)


def _reap(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        with contextlib.suppress(OSError):
            _report(control, Exited(pid, os.waitstatus_to_exitcode(status)))


def _report(control: socket.socket, message: FromParent) -> None:
    control.sendall(pack(message).encode() + b"\n")
