"""Clusters of namespaces, for as long as a file of tests needs one; skipped with a reason where there can be none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.clusters import hosts, slurm


@pytest.fixture(scope="module")
def three_hosts() -> Iterator[hosts.Hosts]:
    """Return hosts h0, h1 and h2."""
    if (reason := hosts.missing()) is not None:
        pytest.skip(reason)
    with hosts.Hosts(3) as up:
        yield up


@pytest.fixture(scope="module")
def cluster(three_hosts: hosts.Hosts) -> Iterator[slurm.Slurm]:
    """Return SLURM on three hosts."""
    if (reason := slurm.missing()) is not None:
        pytest.skip(reason)
    with slurm.Slurm(three_hosts) as up:
        yield up
