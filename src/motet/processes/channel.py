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

from motet.processes.job_messages import Answer, FromJob, Question, ToJob
from motet.processes.messages import pack, unpack

MOST_READS = 16  # at one look: who writes faster than that waits
_FILES_BYTES = socket.CMSG_SPACE(16 * array.array("i").itemsize)


class Channel:
    """The job's end of the socket: it blocks."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._unread = b""
        self._lock = threading.RLock()
        self._reads = threading.RLock()  # for all of a question: who else reads would take its answer away
        self._files: deque[int | None] = deque()
        self._kept: deque[FromJob | ToJob] = deque()  # what came while an answer was waited for

    @property
    def file(self) -> int:
        """The open file of this end."""
        return self._socket.fileno()

    def send(self, message: FromJob | ToJob, file: int | None = None) -> None:
        """Send a message, with an open file if need be. A worker that has gone is no error: this process ends with it.

        Nor is a job's process that has gone: its worker will see it.
        """
        line = _line(message)
        with contextlib.suppress(OSError), self._lock:
            if file is not None:  # in front of the message that is about it
                self._socket.sendmsg([b"\n"], _rights(file))
            self._socket.sendall(line)

    def ask(self, question: Question, wakes: int) -> Answer | None:
        """Send a question and wake the worker, by an eventfd; return its answer, None if it has gone. Blocks.

        The questions of several threads are asked one after the other.
        """
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        with self._reads:
            self.send(question)
            os.eventfd_write(wakes, 1)
            while True:
                ready.poll()  # a signal's handler may run, and raise, meanwhile
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
        """Yield the messages that are there by now; while another thread asks, those that it has kept."""
        if self._reads.acquire(blocking=False):
            try:
                self._kept += self._read()[0]
            finally:
                self._reads.release()
        while self._kept:
            yield self._kept.popleft()

    def _read(self) -> tuple[list[FromJob | ToJob], bool]:
        """Return what is there by now, and whether there is somebody at the other end."""
        is_open = True
        for _ in range(MOST_READS):
            try:
                data, came, flags, _ = self._socket.recvmsg(1 << 16, _FILES_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionError:
                is_open = False
                break
            for file in (file for _, _, packed in came for file in array.array("i", packed)):
                os.set_inheritable(file, False)
                self._files.append(file)
            if flags & socket.MSG_CTRUNC:  # too many are open here
                self._files.append(None)
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

    def take_file(self) -> int | None:
        """Return the file that came with a message: the caller's from here on. Messages are asked in their order.

        None: too many were open for it.
        """
        return self._files.popleft() if self._files else None

    def wait(self, seconds: float) -> None:
        """Block until there is a message, or so long."""
        ready = select.poll()
        ready.register(self._socket, select.POLLIN)
        ready.poll(1000 * seconds)

    def close(self) -> None:
        """Close this end."""
        while self._files:
            if (file := self._files.popleft()) is not None:
                os.close(file)
        self._socket.close()


class WorkerChannel(Channel):
    """The worker's end: it never blocks. What a job does not read by now (it may be stopped) is sent later."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__(end)
        self._unsent: deque[tuple[memoryview, int | None]] = deque()

    @property
    def has_unsent(self) -> bool:
        """Whether there is something to `flush` once the job reads."""
        return bool(self._unsent)

    def send(self, message: FromJob | ToJob, file: int | None = None) -> None:
        """Send a message, with an open file if need be, as soon as the job reads. A job that has gone is no error.

        Raises `OSError` where too many files are open for one more; nothing is sent then.
        """
        if file is not None:  # a file of its own: the sender may close the other before this is sent
            self._unsent.append((memoryview(b"\n"), os.dup(file)))
        self._unsent.append((memoryview(_line(message)), None))
        self.flush()

    def flush(self) -> None:
        """Send what is still to be sent, as far as the job has read."""
        try:
            while self._unsent:
                data, file = self._unsent[0]
                num_sent = self._socket.sendmsg([data], () if file is None else _rights(file), socket.MSG_DONTWAIT)
                if file is not None:  # with a single byte: sent as a whole
                    os.close(file)
                self._unsent.popleft()
                if num_sent < len(data):
                    self._unsent.appendleft((data[num_sent:], None))
        except BlockingIOError:
            pass
        except OSError:
            self._drop_unsent()

    def _drop_unsent(self) -> None:
        while self._unsent:
            if (file := self._unsent.popleft()[1]) is not None:
                os.close(file)

    def close(self) -> None:
        """Close this end."""
        self._drop_unsent()
        super().close()


def _line(message: FromJob | ToJob) -> bytes:
    return b"\n" + pack(message).encode() + b"\n"  # a line before that was cut off ends here


def _rights(file: int) -> list[tuple[int, int, array.array[int]]]:
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file]))]
