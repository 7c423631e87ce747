"""How many sockets a worker needs, and room for them.

A group of gloo's joins every worker to every other when it is made: `W - 1` sockets on each of `W` workers. Motet's own
groups, a lane for each job and what workers agree on, connect *lazily* instead, each worker with those alone with whom
a collective exchanges anything: both neighbours in the ring of an all-reduce or an all-gather, the `log2 W` partners in
a broadcast's tree. The collectives are the same to the bit. They are used once as soon as they are made
(`motet.workers.group`), so that nobody connects in the middle of a run.

The group that a job makes for itself is a mesh, as alone. Only where the meshes of all jobs would not fit below the
process's limit of open files, they connect lazily, too: then `isend` blocks until the other worker asks for what was
sent, which a program that is made for gloo's mesh might not expect.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from collections.abc import Iterator

from motet.errors import UsageError
from motet.started_by import LOOPBACK
from motet.torch_versions import LAZY_CONNECTIONS

SPARE = 256  # for files, data loaders, what jobs open
VARIABLE = "TORCH_GLOO_LAZY_INIT"
LIMIT = "MOTET_OPEN_FILES"  # as it was before a launcher raised its own, which its workers inherit
LOOPBACK_SECONDS = 5.0
CLIENTS = 3  # connections to the store, besides one for each job
MANY_JOBS = 16  # at once, where it is not known how many


def sockets_needed(num_jobs: int, num_workers: int, *, lazily: bool = False) -> int:
    """Return how many sockets a worker needs with so many jobs at once; ``lazily``: their own groups connect so."""
    others = num_workers - 1
    ring, tree = min(2, others), (num_workers - 1).bit_length()
    own = (num_jobs + 1) * ring + tree if LAZY_CONNECTIONS.there else (num_jobs + 2) * others
    of_job = min(ring + tree, others) if lazily else others
    return own + num_jobs * of_job + num_jobs + CLIENTS


def clients_of_store(num_jobs: int, num_workers: int) -> int:
    """Return how many connections the process that keeps the store has."""
    return (num_jobs + CLIENTS) * num_workers


def jobs_connect_lazily(num_jobs: int, num_workers: int) -> bool:
    """Return whether jobs' own groups are to connect lazily: what torch's own variable says, if the user has set it.

    Otherwise they do where their meshes would not fit below the limit of open files as this host has it.
    """
    if not LAZY_CONNECTIONS.there:
        return False
    if (given := os.environ.get(VARIABLE)) is not None:
        return given.lower() in {"1", "y", "yes", "t", "true"}
    soft = int(os.environ.get(LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
    return soft != resource.RLIM_INFINITY and sockets_needed(num_jobs, num_workers) + SPARE > soft


def make_room(num_jobs: int, num_workers: int, *, lazily: bool = False, num_clients: int = 0) -> None:
    """Raise this process's limit of open files where it must be; `UsageError` where it cannot.

    ``lazily``: jobs' own groups connect so. ``num_clients``: connections of others that this process serves as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sockets_needed(num_jobs, num_workers, lazily=lazily) + num_clients + SPARE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        left = hard - num_clients - SPARE
        fits = (n for n in range(num_jobs, 0, -1) if sockets_needed(n, num_workers, lazily=lazily) <= left)
        fitting = next(fits, 0)
        remedy = f", or at most {fitting} jobs at once (--at-once {fitting})" if fitting else ""
        raise UsageError(
            f"{num_jobs} jobs at once on {num_workers} workers need {wanted} open files on each worker (sockets to "
            f"other workers), and at most {hard} are allowed here: give a higher limit (ulimit -Hn, LimitNOFILE)"
            f"{remedy}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def check_loopback() -> None:
    """Raise `UsageError` where this machine does not reach itself: what connects would try again for minutes."""
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), timeout=LOOPBACK_SECONDS).close()
    except OSError as error:
        raise UsageError(
            f"workers on one machine talk to each other at {LOOPBACK}, and nothing gets through there ({error}): bring "
            "the loopback interface up (ip link set lo up)"
        ) from None


@contextlib.contextmanager
def room_for_store(num_workers: int, num_jobs: int = MANY_JOBS) -> Iterator[None]:
    """Raise the limit of the process that keeps the store, as far as it may be, until the block ends.

    What it starts meanwhile finds in `LIMIT` what the limit was.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = clients_of_store(num_jobs, num_workers) + SPARE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    before = os.environ.get(LIMIT)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    os.environ[LIMIT] = str(soft)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        _put_back(LIMIT, before)


@contextlib.contextmanager
def connecting(*, lazily: bool) -> Iterator[None]:
    """Have groups of gloo's that are made in the block connect when they are used, or be meshes."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1" if lazily else "0"
    try:
        yield
    finally:
        _put_back(VARIABLE, before)


@contextlib.contextmanager
def connecting_for_job(*, lazily: bool) -> Iterator[None]:
    """Have the groups that a job makes in the block connect so, unless its own environment says how."""
    with contextlib.nullcontext() if VARIABLE in os.environ else connecting(lazily=lazily):
        yield


def _put_back(variable: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(variable, None)
    else:
        os.environ[variable] = value


def longest_pause_seconds(num_workers: int) -> float:
    """Return the pause between two looks for a text of worker 0's: all workers look 4,000 times a second at most."""
    return max(0.004, num_workers / 4000)


def consult_every_seconds(num_workers: int) -> float:
    """Return how often the processes of a job ask worker 0's for a decision: those of 128 workers do so each second."""
    return max(0.5, num_workers / 128)


def seconds_between_looks(num_workers: int) -> float:
    """Return the time after which a stalled worker publishes so again: 64 of them do so each second, at most."""
    return max(1.0, num_workers / 64)
