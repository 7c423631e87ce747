"""Real SLURM: the script of the guide, requeued, signalled, out of time; one task a host, and one a worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.clusters.slurm import Slurm
from tests.distributed.command import FAULTY, HOUSED

from motet.testing import Gang

LONG = {"steps": 200, "pause": 0.02, "every": 1000}
# The guide's script, but for the number of workers.
SCRIPT = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --signal=USR1@60 --requeue --open-mode=append --output=out.%j.txt
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun motet run --nnodes="$SLURM_NNODES" --nproc-per-node=1 --rdzv-backend=c10d --rdzv-endpoint="$head:29400" \\
  --rdzv-id="$SLURM_JOB_ID" --run-dir "runs/$SLURM_JOB_ID" jobs.yaml
status=$?
echo "srun ended with $status"
[ $status = 3 ] && scontrol requeue "$SLURM_JOB_ID"
exit $status
"""


def jobs(cluster: Slurm, house: str = "together", /, **loops: dict[str, Any]) -> None:
    content = {"jobs": {name: {"call": HOUSED[house], "with": arguments} for name, arguments in loops.items()}}
    (cluster.hosts.shared / "jobs.yaml").write_text(json.dumps(content))


def results(cluster: Slurm, job: int) -> dict[str, Any]:
    path = cluster.hosts.shared / "runs" / str(job) / "results.json"
    return json.loads(path.read_text())["jobs"]


def alone(gangs: Callable[[int], Gang], num_workers: int, loop: dict[str, Any] = LONG, **changed: Any) -> Any:
    return gangs(num_workers).run(FAULTY, **{**loop, "pause": 0.0, **changed})[0]


@pytest.mark.parametrize("house", [pytest.param("together", marks=pytest.mark.in_ci), "process"])
def test_requeued_three_times_the_same_script_ends_with_the_same_weights(
    cluster: Slurm, gangs: Callable[[int], Gang], house: str
) -> None:
    jobs(cluster, house, a=LONG, b=LONG | {"seed": 2})
    job = cluster.submit(SCRIPT.replace("jobs.yaml", f"--house={house} jobs.yaml"))
    for number in range(1, 4):
        cluster.wait_for_text(job, "[b] begins after", number)
        cluster.command("scontrol", "requeue", str(job))
        cluster.start_again(job)
    printed = cluster.wait_until(job, "COMPLETED", "FAILED")
    assert cluster.state(job) == "COMPLETED", printed
    assert printed.count("this run has begun before, and goes on") == 3, printed
    assert printed.count("[b] begins after 0\n") == 1, printed
    found = results(cluster, job)
    assert [found["a"]["result"], found["b"]["result"]] == [alone(gangs, 2), alone(gangs, 2, seed=2)], printed


LOADING = "tests.distributed.jobs_faulty:loading"


@pytest.mark.parametrize(("signal", "house"), [("TERM", "together"), ("USR1", "together"), ("USR1", "process")])
def test_a_signal_to_every_process_of_a_step_is_a_stop(cluster: Slurm, signal: str, house: str) -> None:
    loops = {name: {"call": LOADING, "with": {"seed": seed, "pause": 0.01}} for name, seed in {"a": 1, "b": 2}.items()}
    (cluster.hosts.shared / "jobs.yaml").write_text(json.dumps({"jobs": loops}))
    job = cluster.submit(
        SCRIPT.replace("--nproc-per-node=1", f"--nproc-per-node=1 --max-job-failures=0 --house={house}")
    )
    for number in range(1, 3):
        cluster.wait_for_text(job, "[b] begins after", number)
        cluster.command("scancel", f"--signal={signal}", str(job))
        cluster.wait_for_text(job, "srun ended with 3", number)
        assert {r["status"] for r in results(cluster, job).values()} == {"stopped"}, cluster.printed(job)
        assert "Traceback" not in cluster.printed(job), cluster.printed(job)
        assert not list((cluster.hosts.shared / "runs" / str(job)).glob("jobs/*/attempts/*")), "nobody is charged"
        cluster.start_again(job)
    cluster.command("scancel", str(job))


def test_the_time_limit(cluster: Slurm) -> None:
    jobs(cluster, a=LONG | {"steps": 10**6}, b=LONG | {"steps": 10**6})
    job = cluster.submit(SCRIPT.replace("--signal=USR1@60 ", ""), "--time=1")
    printed = cluster.wait_until(job, "TIMEOUT", seconds=200)
    assert "to go on" in printed, printed
    turns = {name: found["turns"] for name, found in results(cluster, job).items()}
    for name, turn in turns.items():
        folder = cluster.hosts.shared / "runs" / str(job) / "checkpoints" / name
        assert max(path.name for path in folder.iterdir()) == f"turn-{turn:08d}", printed


TASKS = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=2 --output=out.%j.txt
srun motet run MORE --run-dir "runs/$SLURM_JOB_ID" jobs.yaml
echo "srun ended with $?"
"""


@pytest.mark.parametrize("house", list(HOUSED))
def test_one_task_a_worker(cluster: Slurm, gangs: Callable[[int], Gang], house: str) -> None:
    loop = LONG | {"steps": 20, "pause": 0.0}
    jobs(cluster, house, a=loop, b=loop | {"seed": 2})
    job = cluster.submit(TASKS.replace("MORE", f"--house={house}"))
    printed = cluster.wait_until(job, "COMPLETED", "FAILED")
    assert "srun ended with 0" in printed, printed
    assert json.loads((cluster.hosts.shared / f"runs/{job}/results.json").read_text())["num_workers"] == 4
    assert results(cluster, job)["b"]["result"] == alone(gangs, 4, loop, seed=2), printed


def test_a_signal_to_tasks_is_a_stop(cluster: Slurm) -> None:
    jobs(cluster, a=LONG | {"steps": 10**6}, b=LONG | {"steps": 10**6})
    job = cluster.submit(TASKS.replace("MORE", ""))
    cluster.wait_for_text(job, "[b] begins after")
    cluster.command("scancel", "--signal=USR1", str(job))
    printed = cluster.wait_until(job, "COMPLETED", "FAILED")
    assert "srun ended with 3" in printed, printed
    assert {r["status"] for r in results(cluster, job).values()} == {"stopped"}
    assert "Traceback" not in printed


def test_a_run_for_each_task_is_refused(cluster: Slurm) -> None:
    jobs(cluster, a=LONG)
    job = cluster.submit(TASKS.replace("MORE", "--nproc-per-node=2"))
    printed = cluster.wait_until(job, "COMPLETED", "FAILED")
    assert "srun ended with 2" in printed, printed
    assert (
        "srun has started this command 4 times, and with --nproc-per-node=2 each would be a run of its own" in printed
    )
    assert not (cluster.hosts.shared / "runs" / str(job)).exists()
