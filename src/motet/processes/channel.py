"""The socket over which a job's process reports to its worker, and is answered."""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Iterator
from typing import cast

from motet.processes.messages import Answer, FromJob, Question, ToJob, pack, unpack

MOST_READS = 16  # at one look: who writes faster than that waits
_FILES_BYTES = socket.CMSG_SPACE(16 * array.array("i").itemsize)


class Channel:
    """One end of the socket. The job's end blocks; the worker's does not."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._unread = b""
        self._lock = threading.RLock()
        self._files: deque[int] = deque()
        self._kept: deque[FromJob | ToJob] = deque()  # what came while an answer was waited for

    @property
    def file(self) -> int:
        """The open file of this end."""
        return self._socket.fileno()

    def send(self, message: FromJob | ToJob, file: int | None = None) -> None:
        """Send a message, with an open file if need be. A worker that has gone is no error: this process ends with it.

        Nor is a job's process that has gone: its worker will see it.
        """
        line = pack(message).encode()
        with contextlib.suppress(OSError), self._lock:
            if file is not None:  # in front of the message that tells of it
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))
                self._socket.sendmsg([b"\n"], [rights])
            self._socket.sendall(b"\n" + line + b"\n")  # a line before that was cut off ends here

    def ask(self, question: Question, wakes: int) -> Answer | None:
        """Send a question and wake the worker, by an eventfd; return its answer, None if it has gone. Blocks."""
        self.send(question)
        os.eventfd_write(wakes, 1)
        while True:
            select.select([self._socket], [], [])  # a signal's handler may run, and raise, meanwhile
            messages, is_open = self._read()
            answer = None
            for message in messages:
                if not isinstance(message, Answer):
                    self._kept.append(message)
                elif message.number == question.number:  # not one to a question that was broken off
                    answer = message
            if answer is not None or not is_open:
                return answer

    def received(self) -> Iterator[FromJob | ToJob]:
        """Yield the messages that are there by now."""
        while self._kept:
            yield self._kept.popleft()
        yield from self._read()[0]

    def _read(self) -> tuple[list[FromJob | ToJob], bool]:
        """Return what is there by now, and whether there is somebody at the other end."""
        is_open = True
        for _ in range(MOST_READS):
            try:
                data, came, _, _ = self._socket.recvmsg(1 << 16, _FILES_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionError:
                is_open = False
                break
            for file in (file for _, _, packed in came for file in array.array("i", packed)):
                os.set_inheritable(file, False)
                self._files.append(file)
            if not data:
                is_open = False
                break
            self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        messages: list[FromJob | ToJob] = []
        for line in lines:
            with contextlib.suppress(ValueError):  # cut off, by what ended the job's loop
                messages.append(cast(FromJob | ToJob, unpack(line)))
        return messages, is_open

    def take_file(self) -> int:
        """Return the file that came with a message: the caller's from here on. Messages are asked in their order."""
        return self._files.popleft()

    def wait(self, seconds: float) -> None:
        """Block until there is a message, or so long."""
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        ready.poll(1000 * seconds)

    def close(self) -> None:
        """Close this end."""
        while self._files:
            os.close(self._files.popleft())
        self._socket.close()
