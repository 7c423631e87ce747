"""The end of a process that a job has forked with `os.fork`, and in which the loop itself has come to its end."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable

from motet.jobs import JobExit


def end_forked(process: int, error: BaseException | None, at_exit: Callable[[], None]) -> None:
    """End this process as Python would, if it is not ``process``: it must not go on as a worker.

    ``error`` is what its program has raised.
    """
    if os.getpid() == process:
        return
    status = 1
    try:
        if isinstance(error, JobExit) and error.__cause__ is not None:
            error = error.__cause__
        status = _status(error)
        for thread in threading.enumerate():  # the child's own: a fork takes none along
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        at_exit()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    finally:
        os._exit(status)


def _status(error: BaseException | None) -> int:
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1
