"""What does ``--offload idle`` lose, and does ``motet plan`` say so? For links to the host and turns of given lengths.

    python benchmarks/offload.py        # about two minutes

Runs on the CPU, where there is no link between a device and the host: each job's state is really moved, to another
place in main memory and back, and the runtime waits where it would on a device; how long a copy has to take is given
by a rate, as `motet.shaped_links` gives a network one. So this compares the plan's model with the order in which a run
asks for copies and waits for them, in seconds that pass. It says nothing about a real device's link, nor about copies
and kernels in each other's way: that is `benchmarks/gpu.py --only offload`.

One worker, four jobs. A turn computes for a given time. Lost is what a run takes beyond one whose copies have an
endless link, by the medians of runs in alternation. That run also tells how long a turn is: with the copies' own work,
which a device would not have, between the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from functools import partial
from math import inf
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from motet.config import RunConfig
from motet.memory.offload import HostTransfers
from motet.results import JobResult
from motet.running import run_jobs
from motet.schedule.costs import Cost
from motet.schedule.offload_model import OffloadModel
from motet.schedule.order import round_robin
from motet.schedule.replay import Assumptions, replay

JOBS = ("a", "b", "c", "d")
WIDTH = 512
TURN_SECONDS = (0.010, 0.020, 0.040)
RATES = (0.1e9, 0.2e9, 0.4e9, 0.8e9)


class PacedTransfers(HostTransfers):
    """Copies that are over when a link of some rate would be through with them, one after the other."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate, self._busy_until = bytes_per_second, 0.0

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy, and take the link for as long as it needs."""
        self._busy_until = max(self._busy_until, time.perf_counter()) + target.nbytes / self._rate
        super().copy(target, source)

    def mark(self) -> object:
        """Return when the link is through with what it was asked for so far."""
        return self._busy_until

    def wait(self, mark: object) -> None:
        """Wait until then."""
        assert isinstance(mark, float)
        if (left := mark - time.perf_counter()) > 0:
            time.sleep(left)


def train(turn_seconds: float, steps: int) -> None:
    """Train, in turns that compute for a given time."""
    model = DistributedDataParallel(nn.Linear(WIDTH, WIDTH, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(4, WIDTH)
    for _ in range(steps):
        over = time.perf_counter() + turn_seconds
        optimizer.zero_grad(set_to_none=False)
        loss = model(x).square().mean()
        while time.perf_counter() < over:
            torch.mm(x, x.T)
        loss.backward()
        optimizer.step()


def measure(turn_seconds: float, steps: int, rate: float) -> tuple[float, dict[str, JobResult]]:
    """Run the jobs; return the seconds of the run, and what came of the jobs."""
    jobs = {name: partial(train, turn_seconds, steps) for name in JOBS}
    results = run_jobs(jobs, RunConfig(order="round-robin"), transfers=PacedTransfers(rate))
    assert all(job.status == "finished" for job in results.jobs.values())
    return results.wall_seconds, dict(results.jobs)


def predict(costs: dict[str, Cost], steps: int, state_bytes: int, rate: float) -> float:
    """Return the seconds that are lost by the plan's model."""
    order, turns = round_robin(list(costs)), dict.fromkeys(costs, steps)
    seconds = [
        replay(
            order, costs, turns, num_workers=1, assumptions=Assumptions(num_buckets=1, offload=offload)
        ).total_seconds
        for offload in (OffloadModel(dict.fromkeys(costs, state_bytes), rate), None)
    ]
    return seconds[0] - seconds[1]


def main() -> None:
    """Measure, print a table, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of computing in each run")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(0.001, 5, inf)  # libraries, process group
    rows = []
    print("| turn | link | each way | lost | of all resident | predicted | off by |\n|---|---|---|---|---|---|---|")
    for turn_seconds in TURN_SECONDS:
        steps = max(10, round(options.seconds / turn_seconds / len(JOBS)))
        taken: dict[float, list[float]] = {rate: [] for rate in (inf, *RATES)}
        for _ in range(options.repeats):
            for rate, seconds in taken.items():
                wall, found = measure(turn_seconds, steps, rate)
                seconds.append(wall)
                if rate == inf:
                    jobs = found
        free = statistics.median(taken[inf])
        costs = {name: Cost(free / (len(JOBS) * steps), 0.0) for name in JOBS}
        memory = jobs[JOBS[0]].memory
        assert memory is not None
        for rate in RATES:
            lost = statistics.median(taken[rate]) - free
            predicted = predict(costs, steps, memory["offload_bytes"], rate)
            rows.append(
                {
                    "turn_seconds": turn_seconds,
                    "bytes_per_second": rate,
                    "state_bytes": memory["offload_bytes"],
                    "resident_seconds": free,
                    "lost_seconds": lost,
                    "predicted_seconds": predicted,
                }
            )
            turn, way = 1e3 * costs[JOBS[0]].compute_seconds, 1e3 * memory["offload_bytes"] / rate
            print(
                f"| {turn:.1f} ms | {rate / 1e9:.1f} GB/s | {way:.1f} ms | {lost:.2f} s "
                f"| {lost / free:.0%} | {predicted:.2f} s | {(lost - predicted) / free:+.1%} |",
                flush=True,
            )
    print(f"largest error, of the time with all resident: {max(map(error, rows)):.1%}")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def error(row: dict[str, float]) -> float:
    """Return how far a prediction was off, as a part of the time with all resident."""
    return abs(row["lost_seconds"] - row["predicted_seconds"]) / row["resident_seconds"]


if __name__ == "__main__":
    main()
