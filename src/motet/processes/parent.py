"""The warm parent: a process that has imported what jobs need, and forks one for each job.

A worker forks it before it starts any thread. It imports nothing more, starts no thread and computes nothing, so that
what it forks begins as clean as a fresh interpreter, in milliseconds, and shares the memory of all that is imported.
A job whose environment differs (``env:``) is started anew instead: what is imported may have read the environment.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from motet.errors import WorkerFailedError
from motet.parent import end_with_parent
from motet.processes.messages import Start
from motet.processes.start import become, forget_exit_hooks


@dataclass(frozen=True, slots=True)
class Gone:
    """A job's process has ended. ``status``: its exit status, negative for the signal that ended it."""

    pid: int
    status: int


class WarmParent:
    """The worker's side: asks for job processes, and hears how they end."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self._control = control
        self._pid = pid
        self._unread = b""
        self._gone: list[Gone] = []

    @classmethod
    def fork(cls, calls: Mapping[str, Callable[[], object]]) -> WarmParent:
        """Fork the warm parent off this process; ``calls``: jobs that are callables, by name."""
        here, there = socket.socketpair()
        gc.collect()
        gc.freeze()  # what is here now is never looked at again, so that forked processes go on sharing its pages
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            try:  # nothing of this may come back into the program that called
                here.close()
                end_with_parent()
                forget_exit_hooks()
                _serve(there, calls)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        gc.unfreeze()
        there.close()
        return cls(here, pid)

    def start(self, start: Start, channel: socket.socket, out: int, err: int) -> int:
        """Start a job's process with these files for its messages and lines; return its number."""
        socket.send_fds(self._control, [start.to_json().encode() + b"\n"], [channel.fileno(), out, err])
        pid = None
        while pid is None:
            for line in self._lines(wait=True):  # to the last one: behind the answer may stand who has ended since
                if "started" in line:
                    pid = int(line["started"])
                else:
                    self._gone.append(Gone(line["gone"], line["status"]))
        return pid

    def gone(self) -> list[Gone]:
        """Return which processes have ended since the last time."""
        self._gone += [Gone(line["gone"], line["status"]) for line in self._lines(wait=False)]
        found, self._gone = self._gone, []
        return found

    def close(self) -> None:
        """End the warm parent, and with it what it has started and still runs."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # whoever else has been forked meanwhile may hold it open
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _lines(self, *, wait: bool) -> list[dict[str, Any]]:
        with contextlib.suppress(BlockingIOError):
            data = self._control.recv(1 << 16, 0 if wait else socket.MSG_DONTWAIT)
            if not data:
                raise WorkerFailedError(
                    "the process of this worker from which jobs are forked has ended, and with it all its jobs; was it "
                    "killed, or did the machine run out of memory?"
                )
            self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        return [json.loads(line) for line in lines]


def _serve(control: socket.socket, calls: Mapping[str, Callable[[], object]]) -> NoReturn:
    """Fork jobs until the worker has gone. In a forked job: run it, and end as a program of its own ends."""
    # Meant for all processes of the run: the worker decides.
    decided = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers: dict[int, Any] = {number: signal.signal(number, signal.SIG_IGN) for number in decided}
    woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    unread: bytes = b""
    files: list[int] = []
    while True:
        watched: list[Any] = [control, woken]
        ready = select.select(watched, [], [])[0]
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(woken, 4096)
            _reap(control)
        if control not in ready:
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
                start = Start.from_json(line.decode())
                become(start, passed, calls.get(start.name), handlers)
            control.sendall(json.dumps({"started": pid}).encode() + b"\n")
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
            word = {"gone": pid, "status": os.waitstatus_to_exitcode(status)}
            control.sendall(json.dumps(word).encode() + b"\n")
