"""What is written for a GPU, as far as it runs without one: the loops, the benchmark's reckoning, a rehearsal of it."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.gpu.test_gpu import OWN, WORKERS

from motet.testing import Gang

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a device: test_gpu.py runs them on it")
@pytest.mark.parametrize("loop", [loop for loop in OWN if loop != "compiled"])
def test_the_loops_for_a_device_run_on_the_cpu(gangs: Callable[[int], Gang], loop: str) -> None:
    names = {"loop": loop, "beside": "companion", "third": "jobs_plain:several_buckets"}
    for found in gangs(2).run(f"{WORKERS}:same_as_alone", names, offload="idle"):
        assert found == []


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu  # type: ignore[import-not-found]

    assert isinstance(gpu, ModuleType)
    return gpu


def test_overlap_is_what_is_in_flight_beside_kernels(gpu: ModuleType) -> None:
    from gpu_child import overlap  # type: ignore[import-not-found]

    def event(name: str, begin: float, seconds: float, category: str = "kernel") -> dict[str, object]:
        return {"name": name, "cat": category, "ts": 1e6 * begin, "dur": 1e6 * seconds}

    found = overlap(
        [
            event("gemm", 1.0, 2.0),
            event("gemm", 5.0, 1.0),
            event("ncclDevKernel_AllReduce", 2.0, 4.0),  # 2 to 6, of which 2 to 3 and 5 to 6 are beside kernels
            event("Memcpy DtoH (Device -> Pinned)", 5.5, 1.5, "gpu_memcpy"),  # to 7; on its own from 6
            event("Memcpy DtoD", 0.0, 9.0, "gpu_memcpy"),
            event("gemm", 0.0, 9.0, "cpu_op"),
            {"name": "a mark", "cat": "kernel", "ts": 0.0},
        ]
    )
    assert found["in_flight_seconds"] == pytest.approx(5.0)
    assert found["beside_kernels_seconds"] == pytest.approx(2.0)


def test_what_is_lost_by_moving_is_set_beside_what_was_predicted(gpu: ModuleType) -> None:
    def answer(seconds: float, state_bytes: int, memory: int) -> dict[str, object]:
        return {"answers": [{"step_seconds": seconds, "state_bytes": state_bytes}], "memory_bytes": memory}

    order = {"size": "tiny", "steps": 100, "num_jobs": 4, "batch": 1}
    # Turns of 10 ms; 8 ms out and 8 ms in are 6 ms too many, but for the first round and the last turns.
    row = gpu.offload_row(order, answer(0.01, 0, 900), answer(0.0155, 80_000_000, 600), 10e9)
    assert row["turn_ms"] == pytest.approx(10.0)
    assert row["lost_fraction"] == pytest.approx(0.55)
    assert row["predicted_fraction"] == pytest.approx(0.6, abs=0.02)
    assert (row["resident_bytes"], row["idle_bytes"]) == (900, 600)
    gpu.print_row(row)
    assert gpu.predicted_loss(0.01, 80_000_000, 16e9, 4) == pytest.approx(0.0, abs=0.01)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a device to measure")
def test_without_a_device_the_benchmark_says_so(tmp_path: Path) -> None:
    done = benchmark("--json", str(tmp_path / "gpu.json"))
    assert (done.returncode, done.stdout) == (0, "There is no accelerator here: nothing was measured.\n"), done.stderr
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
def test_all_that_needs_a_device_can_be_rehearsed_where_nothing_is_installed(tmp_path: Path) -> None:
    """As on a bare machine: no metadata of Motet's, no command, only the packages that it needs, on a path."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "motet" not in entry.name and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(packages), "PYTHON": str(python), "HOME": str(tmp_path)}
    found = subprocess.run(
        [str(python), "-c", "import importlib.metadata as m; print(m.version('torch'), m.version('motet'))"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert "PackageNotFoundError" in found.stderr
    out = tmp_path / "out"
    command = ["bash", str(BENCHMARKS / "gpu.sh"), "--rehearse", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo: status 0" in done.stdout
    assert "tests: status 0" in done.stdout
    assert "skipped" in (out / "tests.txt").read_text()
    report = json.loads((out / "gpu.json").read_text())
    assert report["rehearsal"] is True
    rows = {row["part"]: row for row in report["rows"]}
    assert list(rows) == ["turn", "alone", "processes", "overlap", "offload"]
    assert rows["overlap"]["sync_seconds"] > 0
    assert rows["processes"]["throughput_over_processes"] > 0
    assert rows["offload"]["state_bytes"] > 4 * 12 * 64 * 64  # a layer's weights, at the very least
    assert rows["offload"]["host_link_bytes_per_second"] > 1e6
    assert rows["alone"]["of_plain_ddp"] > 0


def test_what_a_bare_machine_lacks_is_named(tmp_path: Path) -> None:
    python = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nexec {python} -S "$@"\n')  # without any installed package
    wrapper.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(wrapper), "HOME": str(tmp_path)}
    command = ["bash", str(BENCHMARKS / "gpu.sh"), "--rehearse", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 2
    assert "lacks torch, numpy, greenlet" in done.stdout
    assert ".wheels/" in done.stdout


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
