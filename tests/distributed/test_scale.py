"""Many workers, for real: the sockets that they need are those of the formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from motet.testing import Gang
from motet.workers.sockets import sockets_needed

STORE_CLIENTS = 12  # the store's, of this worker: a handful, however many there are


@pytest.mark.parametrize(("num_workers", "num_jobs"), [(4, 2), (4, 6), (16, 3)])
def test_a_worker_needs_the_sockets_of_the_formula(
    new_gang: Callable[[int], Gang], num_workers: int, num_jobs: int
) -> None:
    told = new_gang(num_workers).run("tests.distributed.jobs_scale:count", num_jobs)
    most = sockets_needed(num_jobs, num_workers)
    # Worker 0 may be the host of the store, with connections from all others.
    others = [each["sockets"] for each in told[1:]]
    assert max(others) <= most + STORE_CLIENTS, (others, most)
    assert max(others) >= most - 2 * num_workers, "and hardly fewer, or the limit would be refused for nothing"
    print({key: max(each[key] for each in told) for key in ("sockets", "start", "all")}, most)
