"""Where a turn has nothing to wait for, a job goes on with the next one; every turn counts all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, os, sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from motet.processes import waits
from motet.processes.turn_table import Seat, Table
from motet.processes.turns import JobTurns

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
table, wake = Table(2), [os.eventfd(0), os.eventfd(0)]
for seat in (0, 1):
    table.open_seat(seat)
ended = []
turns = JobTurns(Seat(table, 0, wake), ended.append, quantum_seconds=float(sys.argv[1]))
turns.begin()
waits.patch(turns)
model = DistributedDataParallel(torch.nn.Linear(2, 1))
handovers = table.holder()[1]
for _ in range(6):
    model(torch.ones(1, 2)).sum().backward()
read, stretches = table.stretches(0, 0)
print(json.dumps({
    "handovers": table.holder()[1] - handovers,
    "ended": ended,
    "synchronized": [stretch.turn for stretch in stretches if stretch.synchronized],
    "held": sum(1 for stretch in stretches if not stretch.synchronized and stretch.end > stretch.begin),
    "holder": table.holder()[0],
}))
dist.destroy_process_group()
"""


@pytest.mark.parametrize(("quantum", "fewest", "most"), [(0.0, 12, 14), (3600.0, 0, 4)])
def test_a_turn_is_kept_for_a_quantum_and_counts(quantum: float, fewest: int, most: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(quantum)]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert fewest <= found["handovers"] <= most  # and once where DDP lays out its buckets
    assert found["ended"] == found["synchronized"] == [1, 2, 3, 4, 5, 6]
    assert found["held"] >= 6
    assert found["holder"] == 0
