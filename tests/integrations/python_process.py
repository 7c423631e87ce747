"""Python in a process of its own, if need be with packages that seem not to be installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]

BLOCK = "import sys; sys.modules.update(dict.fromkeys({blocked!r}))\n"  # None: cannot be imported, is not found


def run_python(code: str, *, without: Sequence[str] = (), folder: Path | None = None) -> str:
    """Run ``code`` and return what it printed on stdout; AssertionError with its stderr if it failed."""
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", (BLOCK.format(blocked=list(without)) if without else "") + code],
        capture_output=True,
        text=True,
        env=_environment(),
        cwd=folder,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def torchrun(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a program on two workers as torchrun does, on loopback; return what they printed on stdout."""
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *arguments],
        capture_output=True,
        text=True,
        env={**_environment(), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", **(environment or {})},
        cwd=ROOT,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
    return ended.stdout


def _environment() -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("TORCHELASTIC", "PET_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return environment
