"""A process of Motet's own: it ends with the one that started it, and leaves no file unwritten."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import signal
import stat
import sys

PARENT = "MOTET_PARENT"  # in the child's environment: the process that starts it
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have Linux end this process when its parent is killed: nothing else could. To be called as soon as possible."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.environ.pop(PARENT, str(os.getppid())) != str(os.getppid()):
        os._exit(1)  # it was killed before that


def flush_open_files() -> None:
    """Write what files hold that a program has left open, and the standard streams, as Python does at its end."""
    for file in gc.get_objects():
        if issubclass(type(file), io.TextIOWrapper | io.BufferedWriter):  # not isinstance: that asks proxies
            with contextlib.suppress(OSError, ValueError):  # closed, or no file at all
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    file.flush()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # closed by whoever was reading it, or no stream at all
            stream.flush()
