"""Signals that reach a process from outside, as a cluster sends them: what a job sends to itself is its own affair."""

from __future__ import annotations

import os
import subprocess


def send_from_outside(number: int) -> None:
    """Have another process send a signal to this one; it has come when this returns."""
    subprocess.run(["kill", f"-{int(number)}", str(os.getpid())], check=True)
