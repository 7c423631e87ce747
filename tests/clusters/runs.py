"""Runs on several hosts, as tests start them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.clusters.hosts import Hosts
from tests.distributed.command import HOUSED

SHORT = {"steps": 12, "every": 5}
port = [29400]  # the next test's is another one: a launcher that is left may still hold this


def jobs(hosts: Hosts, house: str = "together", /, **loops: dict[str, Any]) -> None:
    """Write a jobs file of loops that can go wrong."""
    content = {"jobs": {name: {"call": HOUSED[house], "with": arguments} for name, arguments in loops.items()}}
    (hosts.shared / "jobs.yaml").write_text(json.dumps(content))


def meeting(nnodes: int | str = 2, *more: str, endpoint: str = "h0") -> list[str]:
    """Return the options by which hosts meet."""
    where = f"--rdzv-endpoint={endpoint}:{port[0]}"
    return [f"--nnodes={nnodes}", "--nproc-per-node=1", "--rdzv-backend=c10d", where, "--rdzv-id=7", *more]


def start(hosts: Hosts, name: str, *words: str, **options: Any) -> subprocess.Popen[str]:
    """Start ``motet run`` on a host."""
    return hosts.start(name, "motet", "run", *words, **options)


def results(path: Path) -> dict[str, Any]:
    """Return what came of each job."""
    return json.loads((path / "results.json").read_text())["jobs"]


def place_of(hosts: Hosts) -> Path:
    """Return a run directory that all hosts see, of this test."""
    return hosts.shared / f"run-{port[0]}"
