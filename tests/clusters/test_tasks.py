"""One process for each worker: started by mpirun, by submitit, with a PyTorchJob's variables; and what is refused."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.distributed.command import FAULTY, HOUSED, Place

from motet.testing import Gang

LOOP = {"steps": 20, "every": 5}
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", "2"]
needs_mpirun = pytest.mark.skipif(
    shutil.which("mpirun") is None, reason="mpirun is not installed (Debian: openmpi-bin)"
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.jobs(a=LOOP, b=LOOP | {"seed": 2})
    yield place
    place.close()


def alone(gangs: Callable[[int], Gang]) -> dict[str, Any]:
    return {name: gangs(2).run(FAULTY, **LOOP, seed=seed)[0] for name, seed in {"a": 1, "b": 2}.items()}


def start(place: Place, *words: str, **variables: str) -> subprocess.Popen[str]:
    environment = place.environment | variables
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=place.path, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.in_ci
@needs_mpirun
@pytest.mark.parametrize("house", list(HOUSED))
def test_mpirun_starts_the_workers(place: Place, gangs: Callable[[int], Gang], house: str) -> None:
    place.jobs(house, a=LOOP, b=LOOP | {"seed": 2})
    words = [*MPIRUN, sys.executable, "-m", "motet", "run", "jobs.yaml", "--house", house, "--run-dir=out"]
    status, out, err = place.ended(start(place, *words))
    assert status == 0, (out, err)
    assert place.results()["num_workers"] == 2
    assert place.jobs_of(field="result") == alone(gangs)
    assert out.count("report: ") == 1, "one run, and worker 0 alone tells of it"


@needs_mpirun
def test_what_came_of_the_run_is_the_status_of_each_task(place: Place) -> None:
    place.jobs(a={"what": "raise", "at": 3})
    words = [*MPIRUN, sys.executable, "-m", "motet", "run", "jobs.yaml", "--run-dir=out"]
    status, out, err = place.ended(start(place, *words))
    assert status == 1, (out, err)
    assert "report: " in out, "no task ended before worker 0 had done its part"
    assert place.jobs_of() == {"a": "failed"}


@needs_mpirun
def test_a_run_for_each_task_is_refused(place: Place) -> None:
    words = [*MPIRUN, sys.executable, "-m", "motet", "run", "--nproc-per-node=2", "jobs.yaml", "--run-dir=out"]
    status, _, err = place.ended(start(place, *words))
    assert (status, "Open MPI has started this command 2 times" in err) == (2, True), err
    assert "--map-by ppr:1:node" in err
    assert not (place.path / "out").exists()


LAUNCHES = """
import motet
from motet.jobs import JobSpec

if __name__ == "__main__":
    motet.launch([JobSpec("a", "call", "time:time", {})], run_dir="out")
"""
RUNS = """
import functools, sys
import motet
from tests.distributed.jobs_faulty import loop

jobs = {name: functools.partial(loop, steps=20, every=5, seed=seed) for name, seed in {"a": 1, "b": 2}.items()}
results = motet.run(jobs, run_dir="out")
assert results.num_workers == 2
print("weights", results["a"].result["weights"], results["b"].result["weights"])
"""


@needs_mpirun
def test_programs(place: Place, gangs: Callable[[int], Gang]) -> None:
    (place.path / "launches.py").write_text(LAUNCHES)
    status, _, err = place.ended(start(place, *MPIRUN, sys.executable, "launches.py"))
    assert (status != 0, "use motet.run" in err) == (True, True), err
    (place.path / "runs.py").write_text(RUNS)
    status, out, err = place.ended(start(place, *MPIRUN, sys.executable, "runs.py"))
    assert status == 0, (out, err)
    found = alone(gangs)
    assert f"weights {found['a']['weights']} {found['b']['weights']}" in out, (
        "of worker 0; the other's buffers are its own"
    )


@pytest.mark.in_ci
@pytest.mark.parametrize("house", list(HOUSED))
def test_a_pytorchjobs_variables(place: Place, gangs: Callable[[int], Gang], house: str) -> None:
    place.jobs(house, a=LOOP, b=LOOP | {"seed": 2})
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = [sys.executable, "-m", "motet", "run", "jobs.yaml", "--house", house, "--run-dir=out"]
    pods = [start(place, *words, RANK=str(rank), **common) for rank in range(2)]
    answers = [(pod.returncode, out, err) for pod in pods for out, err in [pod.communicate(timeout=120)]]
    assert [status for status, _, _ in answers] == [0, 0], answers
    assert place.jobs_of(field="result") == alone(gangs)
    assert place.results()["num_workers"] == 2


SUBMITS = """
import sys
import submitit
from tests.clusters.submitted import train

if __name__ == "__main__":
    executor = submitit.LocalExecutor(folder="logs")
    executor.update_parameters(tasks_per_node=2, timeout_min=5)
    for found in executor.submit(train).results():
        print("weights", *found)
"""


@pytest.mark.in_ci
def test_submitit_starts_the_workers(place: Place, gangs: Callable[[int], Gang]) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    (place.path / "submits.py").write_text(SUBMITS)
    status, out, err = place.ended(start(place, sys.executable, "submits.py"))
    assert status == 0, (out, err, [path.read_text() for path in (place.path / "logs").glob("*.err")])
    found = alone(gangs)
    assert f"weights {found['a']['weights']} {found['b']['weights']}" in out, (
        "of worker 0; the other's buffers are its own"
    )
