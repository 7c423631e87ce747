"""Which worker this process is, where something else than torchrun has started one process for each worker.

``srun --ntasks-per-node=4``, ``mpirun -np 4`` and a PyTorchJob start the same command several times. What each of them
sets in the environment is made into what torchrun would have set: ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``,
``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from motet.errors import UsageError

LOOPBACK = "127.0.0.1"
_FIRST_PORT, _NUM_PORTS = 20000, 10000


@dataclass(frozen=True)
class Source:
    """Where something passes its tasks who they are: the names of variables. ``job``: what distinguishes runs."""

    name: str
    rank: str
    size: str
    local_rank: str | None
    local_size: str | None
    job: tuple[str, ...]
    how_one: str  # how one process a host is asked for


# The innermost comes first: mpirun inside a SLURM job starts what counts.
SOURCES = (
    Source(
        "Open MPI",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        ("OMPI_MCA_ess_base_jobid", "PMIX_NAMESPACE"),
        "mpirun --map-by ppr:1:node",
    ),
    Source(
        "srun",
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",  # of the step: a batch script's own SLURM_NTASKS counts tasks that nobody has started
        "SLURM_LOCALID",
        None,
        ("SLURM_JOB_ID", "SLURM_STEP_ID"),
        "srun --ntasks-per-node=1",
    ),
    Source(
        "submitit",
        "SUBMITIT_LOCAL_GLOBALID",
        "SUBMITIT_LOCAL_NTASKS",
        "SUBMITIT_LOCAL_LOCALID",
        "SUBMITIT_LOCAL_NTASKS",
        ("SUBMITIT_LOCAL_JOB_ID",),
        "tasks_per_node=1",
    ),
    Source("MPI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", ("PMI_ID",), "mpiexec -ppn 1"),
)
PLAIN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Tasks:
    """One of several tasks of a step: what torchrun would have set, and by whom the task was started."""

    by: str
    rank: int
    size: int
    variables: Mapping[str, str]
    how_one: str = ""

    def enter(self, environ: MutableMapping[str, str]) -> None:
        """Set the variables; what is set already stays."""
        for name, value in self.variables.items():
            environ.setdefault(name, value)


def torchrun(environ: Mapping[str, str]) -> bool:
    """Whether torchrun, or Motet's own launcher, has started this process as a worker."""
    return "TORCHELASTIC_RUN_ID" in environ and {"RANK", "WORLD_SIZE"} <= environ.keys()


def find_tasks(environ: Mapping[str, str]) -> Tasks | None:
    """Return which of several tasks this process is; None if it is none, or if torchrun has said it all.

    Raises `UsageError`, with the variables that were seen, where they do not say how the tasks find each other.
    """
    if torchrun(environ):
        return None
    if {"RANK", "WORLD_SIZE"} <= environ.keys():
        return _plain(environ)
    for source in SOURCES:
        if (size := _number(environ, source.size)) is not None and size > 1:
            return _tasks(environ, source, size)
    return None


def _plain(environ: Mapping[str, str]) -> Tasks | None:
    """Return what a PyTorchJob's variables, or a user's own, say."""
    rank, size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    assert rank is not None
    assert size is not None
    if size == 1:
        return None
    if missing := [name for name in PLAIN if name not in environ]:
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={size} are set, as for one of several workers, but not "
            f"{' and '.join(missing)}: set all of them, or none for a run that starts its own workers"
        )
    variables = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} if "LOCAL_RANK" not in environ else {}
    return Tasks("RANK and WORLD_SIZE", rank, size, variables)


def _tasks(environ: Mapping[str, str], source: Source, size: int) -> Tasks:
    rank = _number(environ, source.rank)
    if rank is None:
        raise UsageError(f"{_seen(environ, source)}, but not {source.rank}: which of the tasks is this?")
    local = _number(environ, source.local_rank) if source.local_rank else None
    local_size = _local_size(environ, source)
    variables = {"RANK": str(rank), "WORLD_SIZE": str(size)}
    if local is not None and local_size is not None:
        variables |= {"LOCAL_RANK": str(local), "LOCAL_WORLD_SIZE": str(local_size)}
    address = environ.get("MASTER_ADDR") or _first_host(environ, source, alone=local_size == size)
    if address is None:
        raise UsageError(
            f"{source.name} has started this command {size} times, on several hosts, and does not say where worker 0 "
            f"is (seen: {_seen(environ, source)}). Set MASTER_ADDR to its host for all of them (mpirun -x "
            f"MASTER_ADDR=HOST), or start one a host ({source.how_one}), with --nnodes, --nproc-per-node and "
            "--rdzv-endpoint"
        )
    word = " ".join(environ.get(name, "") for name in source.job)
    port = _FIRST_PORT + zlib.crc32(word.encode()) % _NUM_PORTS
    variables |= {"MASTER_ADDR": address, "MASTER_PORT": str(port)}
    return Tasks(source.name, rank, size, variables, source.how_one)


def _local_size(environ: Mapping[str, str], source: Source) -> int | None:
    if source.local_size is not None:
        return _number(environ, source.local_size)
    # "2(x3),1": of each host of the step, in order.
    sizes: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        sizes += [int(count)] * int(times or 1)
    node = _number(environ, "SLURM_NODEID")
    return sizes[node] if node is not None and node < len(sizes) else None


def _first_host(environ: Mapping[str, str], source: Source, *, alone: bool) -> str | None:
    if alone:
        return LOOPBACK
    if source.name == "srun" and (hosts := environ.get("SLURM_STEP_NODELIST")):
        # "node[007-012,20],gpu1": the first of the first range.
        found = re.match(r"([^,\[]+)(?:\[(\d+))?([^,\[\]]*)", hosts)
        return found[1] + (found[2] or "") if found else None
    return None


def _number(environ: Mapping[str, str], name: str | None) -> int | None:
    if name is None or not (text := environ.get(name, "")):
        return None
    if not text.isdigit():
        raise UsageError(f"{name} is {text!r}, which is no number")
    return int(text)


def _seen(environ: Mapping[str, str], source: Source) -> str:
    names = (source.rank, source.size, source.local_rank, source.local_size)
    return ", ".join(f"{name}={environ[name]}" for name in dict.fromkeys(names) if name and name in environ)
