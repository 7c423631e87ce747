"""How many sockets a worker needs, and room for them.

Each group of gloo's joins every worker to every other: a socket for each pair. A run has one group for all workers, one
for what they agree on, the store's clients, and one for the gradients of each job that is under way: with `J` jobs at
once, `(J + 3) (W - 1)` sockets on each of `W` workers. 256 workers with 8 jobs need 2805, and processes begin with a
limit of 1024 on most systems.
"""

from __future__ import annotations

import resource

from motet.errors import UsageError

SPARE = 256  # for files, the store, data loaders, what jobs open


def sockets_needed(num_jobs: int, num_workers: int) -> int:
    """Return how many sockets a worker needs to reach the others, with so many jobs at once."""
    return (num_jobs + 3) * (num_workers - 1)


def make_room(num_jobs: int, num_workers: int) -> None:
    """Raise this process's limit of open files where the sockets would not fit; `UsageError` where it cannot be."""
    wanted = sockets_needed(num_jobs, num_workers) + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        fitting = (hard - SPARE) // max(1, num_workers - 1) - 3
        remedy = f", or at most {fitting} jobs at once (--at-once {fitting})" if fitting > 0 else ""
        raise UsageError(
            f"{num_jobs} jobs at once on {num_workers} workers need {wanted} open files on each worker (a socket to "
            f"every other worker for each job), and at most {hard} are allowed here: give a higher limit (ulimit -Hn, "
            f"LimitNOFILE){remedy}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def seconds_between_looks(num_workers: int) -> float:
    """Return how often a worker that stands still looks where all others stand: together they ask 16 W times a second.

    Each look asks for W positions, so looking every second would be W squared.
    """
    return max(1.0, num_workers / 16)
