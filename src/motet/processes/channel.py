"""The socket over which a job's process reports to its worker."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from typing import cast

from motet.processes.messages import Answer, FromJob, Question, pack, unpack

MOST_READS = 16  # at one look: who writes faster than that waits


class Channel:
    """One end of the socket. The job's end blocks; the worker's does not."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._unread = b""
        self._lock = threading.RLock()

    @property
    def file(self) -> int:
        """The open file of this end."""
        return self._socket.fileno()

    def send(self, report: FromJob | Answer) -> None:
        """Send a message. A worker that has gone is no error: this process ends with it."""
        line = pack(report).encode()
        with contextlib.suppress(OSError), self._lock:
            self._socket.sendall(b"\n" + line + b"\n")  # a line before that was cut off ends here

    def ask(self, question: Question, wakes: int) -> Answer | None:
        """Send a question and wake the worker, by an eventfd; return its answer, None if it has gone. Blocks."""
        self.send(question)
        os.eventfd_write(wakes, 1)
        unread = b""
        while True:
            select.select([self._socket], [], [])  # a signal's handler may run, and raise, meanwhile
            data = self._socket.recv(1 << 16)
            if not data:
                return None
            *lines, unread = (unread + data).split(b"\n")
            for line in filter(None, lines):
                answer = cast(Answer, unpack(line))
                if answer.number == question.number:  # not one to a question that was broken off
                    return answer

    def received(self) -> Iterator[FromJob]:
        """Yield the reports that are there by now."""
        for _ in range(MOST_READS):
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                break
            if not data:
                break
            self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # cut off, by what ended the job's loop
                yield cast(FromJob, unpack(line))

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
