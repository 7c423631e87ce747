"""Real SLURM: the script of the guide, requeued, signalled, out of time; one task a host, and one a worker."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.clusters.slurm import Slurm
from tests.distributed.command import FAULTY

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


def jobs(cluster: Slurm, **loops: dict[str, Any]) -> None:
    content = {"jobs": {name: {"call": FAULTY, "with": arguments} for name, arguments in loops.items()}}
    (cluster.hosts.shared / "jobs.yaml").write_text(json.dumps(content))


def results(cluster: Slurm, job: int) -> dict[str, Any]:
    path = cluster.hosts.shared / "runs" / str(job) / "results.json"
    return json.loads(path.read_text())["jobs"]


def alone(gangs: Callable[[int], Gang], num_workers: int, loop: dict[str, Any] = LONG, **changed: Any) -> Any:
    return gangs(num_workers).run(FAULTY, **{**loop, "pause": 0.0, **changed})[0]


def test_requeued_three_times_the_same_script_ends_with_the_same_weights(
    cluster: Slurm, gangs: Callable[[int], Gang]
) -> None:
    jobs(cluster, a=LONG, b=LONG | {"seed": 2})
    job = cluster.submit(SCRIPT)
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
