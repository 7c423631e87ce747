"""Clusters of namespaces, for as long as a file of tests needs one; skipped with a reason where there can be none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.clusters import slurm
from tests.clusters.hosts import Hosts, missing
from tests.clusters.runs import port


@pytest.fixture(scope="module")
def three_hosts() -> Iterator[Hosts]:
    """Return hosts h0, h1 and h2."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with Hosts(3) as up:
        yield up


@pytest.fixture(scope="module")
def cluster(three_hosts: Hosts) -> Iterator[slurm.Slurm]:
    """Return SLURM on three hosts."""
    if (reason := slurm.missing()) is not None:
        pytest.skip(reason)
    with slurm.Slurm(three_hosts) as up:
        yield up


@pytest.fixture
def hosts(three_hosts: Hosts) -> Iterator[Hosts]:
    """Return the hosts; whatever a test has left running is ended."""
    port[0] += 1
    yield three_hosts
    for process in three_hosts.processes():
        process.kill()
