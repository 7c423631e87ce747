"""Jobs in the training function of a real ``TorchTrainer``: weights as without Motet, retried, stopped, gone on with.

Ray listens on the machine's own address, whatever it is told: it runs in a network of its own with loopback alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.clusters.hosts import ROOT, missing

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (pip install 'motet[ray]')"),
    pytest.mark.skipif(missing() is not None, reason="Ray is started in a network namespace: needs root and iproute2"),
]
LOOPBACK_ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "GLOO_SOCKET_IFNAME": "lo", "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a short path: Ray's sockets lie below it."""
    made = Path(tempfile.mkdtemp(prefix="mr-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def started(place: Path, *words: str) -> str:
    """Run a program to its end, and return what it printed."""
    paths = (str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH"))
    own = {"RAY_TMPDIR": str(place), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment = {**os.environ, **VARIABLES, **own}
    command = [*LOOPBACK_ALONE, *words]
    ended = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=270, check=False
    )
    assert ended.returncode == 0, (ended.stdout[-5000:], ended.stderr[-5000:])
    return ended.stdout


def run(what: str, place: Path) -> dict[str, Any]:
    printed = started(place, sys.executable, "-m", "tests.clusters.ray_program", what, str(place))
    report = next(line for line in printed.splitlines() if line.startswith("REPORT "))
    return json.loads(report.removeprefix("REPORT "))


@pytest.mark.in_ci
def test_a_worker_is_killed_and_ray_starts_the_function_again(place: Path) -> None:
    report = run("killed", place)
    assert (place / "struck").exists()
    together = report["together"]
    assert {name: job["result"] for name, job in together["jobs"].items()} == report["alone"]["jobs"], "bit for bit"
    kept = Path(together["checkpoint"])
    begun = [line for line in (kept / "jobs/b/log.txt").read_text().splitlines() if line.startswith("begins after")]
    assert int(begun[-1].split()[-1]) >= 5, "from what Ray's storage had"
    assert json.loads((kept / "results.json").read_text())["jobs"]["a"]["status"] == "finished"
    metrics = together["metrics"]
    assert (metrics["a/turn"], metrics["b/status"]) == (120, "finished")
    assert "a/loss" in metrics


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_in_another_fit(place: Path) -> None:
    report = run("stopped", place)
    assert {job["status"] for job in report["stopped"]["jobs"].values()} == {"stopped"}
    assert 0 < report["stopped"]["metrics"]["a/turn"] < 120
    together = {name: job["result"] for name, job in report["together"]["jobs"].items()}
    assert together == report["alone"]["jobs"]


@pytest.mark.slow
def test_the_example(place: Path) -> None:
    words = ["--rates", "0.1", "0.3", "--epochs=3", f"--storage={place / 'storage'}"]
    printed = started(place, sys.executable, str(ROOT / "examples" / "ray_train.py"), *words)
    accuracies = [float(line.split()[-1]) for line in printed.splitlines() if line.startswith("rate ")]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.5, "guessing reaches 0.1"
