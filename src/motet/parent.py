"""A process that ends with the one that started it, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PARENT = "MOTET_PARENT"  # in the child's environment: the process that starts it
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have Linux end this process when its parent is killed: nothing else could. To be called as soon as possible."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.environ.pop(PARENT, str(os.getppid())) != str(os.getppid()):
        os._exit(1)  # it was killed before that
