"""Does anything grow? Many jobs, sixteen at once, 20,000 turns in all: memory, open files, threads, process groups.

    python benchmarks/soak.py            # about four minutes

Jobs of different lengths on two workers: whenever one ends the next joins. Looked at every 500 turns on worker 0.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import threading
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet
from motet.events import Event, SyncEnded
from motet.running import run
from motet.testing import Gang

LOOK_EVERY = 500


def train(steps: int, seed: int) -> float:
    """Train a small model with BatchNorm, logging and checkpoints."""
    torch.manual_seed(seed)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1)))
    optimizer = torch.optim.Adam(model.parameters())
    job = motet.current_job()
    start = job.checkpoint(model=model, optimizer=optimizer, every_turns=100)
    loss = torch.zeros(())
    for _ in range(start, steps):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 32)).square().mean()
        loss.backward()
        optimizer.step()
        job.log(loss=loss)
        start.save_point()
    return loss.item()


def figures() -> dict[str, float]:
    """Return what this process holds now."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "python_threads": threading.active_count(),
        "groups": len(dist.distributed_c10d._world.pg_map),
    }


class Looking:
    """An observer that looks every so many turns."""

    changes_nothing_global = True

    def __init__(self) -> None:
        self.num_turns = 0
        self.seen: list[dict[str, float]] = []

    def observe(self, event: Event) -> None:
        """Count the turns."""
        if isinstance(event, SyncEnded):
            self.num_turns += 1
            if self.num_turns % LOOK_EVERY == 0:
                self.seen.append({"turns": self.num_turns, **figures()})


def soak(
    folder: str, num_turns: int, at_once: int
) -> tuple[dict[str, float], list[dict[str, float]], dict[str, float]]:
    """On every worker: run jobs until so many turns are done; return figures before, during and after."""
    draw, jobs, left = random.Random(0), {}, num_turns
    while left > 0:
        steps = min(left, draw.randrange(100, 500))
        jobs[f"job{len(jobs)}"] = partial(train, steps, seed=len(jobs))
        left -= steps
    run({"first": partial(train, 20, 0)}, run_dir=Path(folder, "first"))  # what is imported once
    before, looking = figures(), Looking()
    results = run(jobs, at_once=at_once, run_dir=Path(folder, "soak"), observers=[looking])
    assert results.num_workers == dist.get_world_size()
    assert all(job.status == "finished" for job in results.jobs.values())
    return before, looking.seen, figures()


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with Gang(options.workers, timeout_seconds=3600) as gang, tempfile.TemporaryDirectory() as folder:
        before, seen, after = gang.run(soak, folder, options.turns, options.at_once)[0]
    for name, row in (("before", before), *((f"{row['turns']:.0f}", row) for row in seen), ("after", after)):
        told = ", ".join(f"{row[key]:.0f} {key}" for key in before)
        print(f"{name:>8}  {told}")


if __name__ == "__main__":
    main()
