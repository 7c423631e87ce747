"""Which worker a process is, from what srun, mpirun, submitit and a PyTorchJob set; recorded from the real ones."""

from __future__ import annotations

import pytest

from motet.errors import UsageError
from motet.started_by import find_tasks

SRUN = {  # of SLURM 22.05: task 3 of --nodes=2 --ntasks-per-node=2
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "h[0-1]",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
MPIRUN = {  # of Open MPI 4.1: -np 4
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "PMIX_NAMESPACE": "2137915393",
}
HYDRA = {  # of MPICH: -n 2
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "MPI_LOCALRANKID": "1",
    "MPI_LOCALNRANKS": "2",
}
SUBMITIT = {  # of its local executor: tasks_per_node=2
    "SUBMITIT_LOCAL_JOB_ID": "77",
    "SUBMITIT_LOCAL_NTASKS": "2",
    "SUBMITIT_LOCAL_GLOBALID": "1",
    "SUBMITIT_LOCAL_LOCALID": "1",
}
PYTORCHJOB = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}


@pytest.mark.parametrize(
    ("environ", "rank", "size", "local", "local_size", "address"),
    [
        (SRUN, "3", "4", "1", "2", "h0"),
        (SRUN | {"SLURM_STEP_NODELIST": "gpu[007-009,12],x1"}, "3", "4", "1", "2", "gpu007"),
        (SRUN | {"SLURM_STEP_NODELIST": "a1,a2"}, "3", "4", "1", "2", "a1"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_LOCALID": "0"}, "3", "4", "0", "1", "h0"),
        (SRUN | {"SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": "4"}, "3", "4", "1", "4", "127.0.0.1"),
        (SRUN | {"MASTER_ADDR": "h0.cluster"}, "3", "4", "1", "2", "h0.cluster"),
        (SRUN | MPIRUN, "2", "4", "2", "4", "127.0.0.1"),
        (MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "MASTER_ADDR": "h1"}, "2", "4", "2", "2", "h1"),
        (HYDRA, "1", "2", "1", "2", "127.0.0.1"),
        (SUBMITIT, "1", "2", "1", "2", "127.0.0.1"),
        (PYTORCHJOB, "1", "2", "0", "1", "job-master-0"),
        (PYTORCHJOB | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}, "1", "2", "1", "2", "job-master-0"),
    ],
)
def test_what_torchrun_would_have_set(
    environ: dict[str, str], rank: str, size: str, local: str, local_size: str, address: str
) -> None:
    tasks = find_tasks(environ)
    assert tasks is not None
    assert (str(tasks.rank), str(tasks.size)) == (rank, size)
    entered = dict(environ)
    tasks.enter(entered)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    assert [entered[name] for name in names] == [rank, size, local, local_size, address]
    assert 1024 < int(entered["MASTER_PORT"]) < 32768, "below the ports that systems give away"


def test_all_tasks_of_a_step_find_the_same_port_and_steps_have_their_own() -> None:
    ports = []
    for step in "01":
        for rank in "03":
            tasks = find_tasks(SRUN | {"SLURM_PROCID": rank, "SLURM_STEP_ID": step})
            assert tasks is not None
            ports.append(tasks.variables["MASTER_PORT"])
    assert ports[0] == ports[1] != ports[2] == ports[3]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # a batch script: nobody has started 4 tasks
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        {"RANK": "0", "WORLD_SIZE": "1"},
        SRUN | {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "7"},
    ],
)
def test_what_is_no_task_of_several(environ: dict[str, str]) -> None:
    assert find_tasks(environ) is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=4.*MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "not MASTER_ADDR and MASTER_PORT"),
        (SRUN | {"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x'"),
        ({"PMI_SIZE": "2"}, "PMI_SIZE=2, but not PMI_RANK"),
    ],
)
def test_what_is_not_enough_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_tasks(environ)
