"""From a fork to a job: what becomes a job's process, or starts it anew, and how that ends."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import io
import logging
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Mapping
from multiprocessing import util as multiprocessing_util
from typing import Any, NoReturn

from motet.parent import end_with_parent, flush_open_files
from motet.processes.job_messages import Start
from motet.processes.messages import pack, unpack

Handlers = Mapping[int, Any]


def become(start: Start, passed: list[int], call: Callable[..., object] | None, handlers: Handlers) -> NoReturn:
    """Be the process of a job: forked a moment ago, with nothing of the parent's left.

    ``passed``: the files for messages, for what is printed, and for errors. ``handlers``: what the worker was started
    with, by signal: what is ignored (by nohup) stays ignored.
    """
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is signal.SIG_IGN else _default(number))
        channel, out, err = passed
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        start = dataclasses.replace(start, channel=channel)
        os.environ.update(start.environment)
        if start.env and start.spec is not None:
            _start_anew(start)
        run_and_exit(start, call)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def forget_exit_hooks() -> None:
    """In a process that was forked: what the program above wants done at its own end is not done here.

    A temporary folder of the program's, for one, is not removed by the first job that ends.
    """
    weakref.finalize._registry.clear()  # type: ignore[attr-defined]
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]
    atexit._clear()
    atexit.register(logging.shutdown)
    atexit.register(multiprocessing_util._exit_function)  # type: ignore[attr-defined]


class _Stream(io.TextIOWrapper):
    """A text stream that writes to an open file, line by line. ``last_line``: what was written last."""

    def __init__(self, number: int) -> None:
        raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        super().__init__(raw, "utf-8", "backslashreplace", line_buffering=True)
        self.last_line = ""

    def write(self, text: str) -> int:
        """Write text."""
        if stripped := text.strip():
            self.last_line = stripped.splitlines()[-1]
        return super().write(text)


def _open_streams() -> None:
    """Give this process streams of its own: its parent's may be a notebook's, or a test's."""
    sys.stdout = sys.__stdout__ = _Stream(1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _Stream(2)  # type: ignore[misc]


def _default(number: int) -> Any:
    return signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL


def _start_anew(start: Start) -> NoReturn:
    """Run the job in a fresh interpreter with an environment of its own.

    What it has to do stands in a file in memory: other users of the machine can read a command line.
    """
    message = os.memfd_create("motet-start", 0)
    os.write(message, pack(dataclasses.replace(start, env=None)).encode())
    os.lseek(message, 0, os.SEEK_SET)
    for file in (start.table, start.channel, *start.wake, message):
        os.set_inheritable(file, True)
    arguments = [sys.executable, "-m", "motet.processes.start", str(message)]
    os.execve(sys.executable, arguments, {**os.environ, **(start.env or {}), "PYTHONUNBUFFERED": "1"})


def run_and_exit(start: Start, call: Callable[..., object] | None) -> NoReturn:
    """Run a job's loop and end this process as Python ends a program: threads, exit hooks, open files, streams."""
    from motet.processes.job import JobProcess

    _open_streams()
    status = 1
    try:
        status = JobProcess(start, call).run()
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    flush_open_files()
    os._exit(status)


def main() -> NoReturn:
    """Run the job that a file in memory describes."""
    end_with_parent()
    with open(int(sys.argv[1]), encoding="utf-8") as message:
        start = unpack(message.read())
    assert isinstance(start, Start)
    run_and_exit(start, None)


if __name__ == "__main__":
    main()
