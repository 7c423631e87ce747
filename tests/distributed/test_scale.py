"""Many workers, for real: the sockets that they need are those of the formula."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from motet.testing import Gang
from motet.workers.sockets import VARIABLE, sockets_needed

SPARE = 4  # connections to the store that close a moment later


@pytest.fixture
def gang_of_scripts() -> Iterator[Callable[..., Gang]]:
    """Return a function that makes a gang whose workers have no process group before the run, as under `motet run`."""
    made: list[Gang] = []

    def make(num_workers: int, **environment: str) -> Gang:
        made.append(Gang(num_workers, joined=False, environment=environment))
        return made[-1]

    yield make
    for gang in made:
        gang.close()


@pytest.mark.parametrize(("num_workers", "num_jobs"), [(4, 2), (4, 6), (16, 3)])
@pytest.mark.parametrize("lazily", [False, True])
def test_a_worker_needs_the_sockets_of_the_formula(
    gang_of_scripts: Callable[..., Gang], num_workers: int, num_jobs: int, lazily: bool
) -> None:
    gang = gang_of_scripts(num_workers, **({VARIABLE: "1"} if lazily else {}))
    reports = gang.run("tests.distributed.jobs_scale:count", num_jobs)
    most = sockets_needed(num_jobs, num_workers, lazily=lazily)
    # Worker 0 may be the host of the store, with connections from all others.
    others = [each["sockets"] for each in reports[1:]]
    assert max(others) <= most + SPARE, (others, most)
    assert max(others) >= most - num_jobs * 2 - SPARE, "and hardly fewer, or a limit would be refused for nothing"
    print({key: max(each[key] for each in reports) for key in ("sockets", "start", "all")}, most)
