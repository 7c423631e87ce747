"""The warm parent, from the worker's side: a process that has imported what jobs need, and forks one for each job.

A worker forks it before it starts any thread. What it does is in `motet.processes.forking`.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import cast

from motet.errors import WorkerFailedError
from motet.parent import end_with_parent
from motet.processes.forking import serve
from motet.processes.job_messages import Exited, Forked, FromParent, Start
from motet.processes.messages import pack, unpack
from motet.processes.start import forget_exit_hooks


class WarmParent:
    """The worker's side: asks for job processes, and learns how they end."""

    def __init__(self, control: socket.socket, pid: int) -> None:
        self._control = control
        self._pid = pid
        self._unread = b""
        self._exited: list[Exited] = []

    @classmethod
    def fork(cls, calls: Mapping[str, Callable[..., object]]) -> WarmParent:
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
                serve(there, calls)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        gc.unfreeze()
        there.close()
        return cls(here, pid)

    def start(self, start: Start, channel: socket.socket, out: int, err: int) -> int:
        """Start a job's process with these files for its messages and lines; return its number."""
        socket.send_fds(self._control, [pack(start).encode() + b"\n"], [channel.fileno(), out, err])
        pid = None
        while pid is None:
            for message in self._messages(wait=True):  # to the last one: behind the answer may stand who has ended
                if isinstance(message, Forked):
                    pid = message.pid
                else:
                    self._exited.append(message)
        return pid

    def exited(self) -> list[Exited]:
        """Return which processes have ended since the last time."""
        for message in self._messages(wait=False):
            assert isinstance(message, Exited), message
            self._exited.append(message)
        found, self._exited = self._exited, []
        return found

    def close(self) -> None:
        """End the warm parent, and with it what it has started and still runs."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)  # whoever else has been forked meanwhile may hold it open
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _messages(self, *, wait: bool) -> list[FromParent]:
        with contextlib.suppress(BlockingIOError):
            data = self._control.recv(1 << 16, 0 if wait else socket.MSG_DONTWAIT)
            if not data:
                raise WorkerFailedError(
                    "the process of this worker from which jobs are forked has ended, and with it all its jobs; was it "
                    "killed, or did the machine run out of memory?"
                )
            self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        return [cast(FromParent, unpack(line)) for line in lines]
