"""A small process beside the launcher that ends the workers, and what they have started, when the launcher is killed.

Linux ends a worker with its launcher (`motet.parent`), but nobody ends what a worker has started: DataLoader workers
take many seconds to notice, and a job's other processes stay for ever. The guardian holds the other end of a pipe, and
so learns at once that the launcher has gone; it knows each worker by its process group. It takes 10 MB, and sleeps.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterable

# Run by itself, without anything of Motet or torch. A line a group; an empty one: all is over, and well.
_PROGRAM = """
import os, signal, sys
groups = set()
for number in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
    signal.signal(getattr(signal, number), signal.SIG_IGN)
for line in sys.stdin:
    if not line.strip():
        groups.clear()
        continue
    groups.update(map(int, line.split()))
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
"""


class Guardian:
    """Watches over the process groups that it is given, for as long as the block lasts."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guardian:
        with contextlib.suppress(OSError):  # without it as before: the workers themselves end with the launcher
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PROGRAM],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                cwd="/",
            )
        return self

    def watch(self, groups: Iterable[int]) -> None:
        """From now on end these groups, and none that it was given before."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # somebody has ended it
                self._process.stdin.write(b"\n" + " ".join(map(str, groups)).encode() + b"\n")
                self._process.stdin.flush()

    def __exit__(self, *raised: object) -> None:
        if self._process is not None and self._process.stdin is not None:
            self.watch(())
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.wait()
