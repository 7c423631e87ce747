"""On one machine every socket of a run listens on loopback alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.distributed.command import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def test_a_live_run_listens_on_loopback_alone(place: Place) -> None:
    jobs = place.jobs(a={"steps": 10**6, "tell": "ready", "pause": 0.01}, b={"steps": 10**6, "seed": 2})
    process = place.start("run", "--nproc-per-node=2", jobs, "--run-dir=out")
    place.wait_until("ready", process)
    listening = {
        (each.pid, connection.laddr.ip)
        for each in place.processes()
        for connection in each.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN or connection.type.name == "SOCK_DGRAM"
    }
    workers = place.workers()
    process.send_signal(signal.SIGINT)
    status, _, err = place.ended(process)
    assert status == 3, err
    assert {address for _, address in listening} == {"127.0.0.1"}
    assert {pid for pid, _ in listening} >= {process.pid, *(worker.pid for worker in workers)}, "the store and gloo"
