"""Does anything grow? Many jobs, sixteen at once, 20,000 turns in all: memory, open files, threads, process groups.

    python benchmarks/soak.py            # about four minutes

Jobs of different lengths on two workers: whenever one ends the next joins. Looked at every 500 turns on each worker;
worker 0's figures are printed. Ends with status 1, and says what grew, if one of them is above what `grown` allows.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
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
# What the later half of the run may hold more than the earlier half, the first and last jobs left out; medians, because
# figures go up and down with what is being written. The halves' middles are 7,500 turns apart: 400 bytes kept of each
# turn would be 3 MB there, and the allocator's own drift was 1 MB (2026-11-25).
MOST_MB = 3.0
MOST_FILES = 2  # a checkpoint that is being written: its file, and the folder that is synced


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


def grown(before: dict[str, float], seen: list[dict[str, float]], after: dict[str, float]) -> list[str]:
    """Return what grew on a worker, in words; nothing if all is well."""
    edge = len(seen) // 8  # where the first jobs come, and the last leave
    middle = seen[edge : len(seen) - edge]
    half = len(middle) // 2
    if half < 3:
        raise ValueError("too few turns to tell: at least 4000")
    found = []
    for key, most, unit in (
        ("rss_mb", MOST_MB, "MB of memory"),
        ("files", MOST_FILES, "open files"),
        ("threads", 0, "threads"),  # as many jobs in either half, and as many threads of theirs
        ("python_threads", 0, "threads of Python"),
        ("groups", 0, "process groups"),
    ):
        early, late = (statistics.median(row[key] for row in rows) for rows in (middle[:half], middle[half:]))
        if late - early > most:
            found.append(
                f"{unit}: {early:.1f} in the earlier half of the run, {late:.1f} in the later: allowed {most} more"
            )
    # What is left at the end was there before the run began, when a run of one job had ended.
    for key, most, unit in (
        ("files", 0, "open files"),
        ("threads", 0, "threads"),
        ("python_threads", 0, "threads of Python"),
        ("groups", 0, "process groups"),
    ):
        if after[key] - before[key] > most:
            found.append(f"{unit}: {before[key]:.0f} before the run, {after[key]:.0f} after it: allowed {most} more")
    return found


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


def main() -> int:
    """Run and print; return 1 if anything grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with Gang(options.workers, timeout_seconds=3600) as gang, tempfile.TemporaryDirectory() as folder:
        workers = gang.run(soak, folder, options.turns, options.at_once)
    before, seen, after = workers[0]
    for name, row in (("before", before), *((f"{row['turns']:.0f}", row) for row in seen), ("after", after)):
        report = ", ".join(f"{row[key]:.0f} {key}" for key in before)
        print(f"{name:>8}  {report}")
    problems = [f"worker {worker} has more {text}" for worker, report in enumerate(workers) for text in grown(*report)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print("nothing grew")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
