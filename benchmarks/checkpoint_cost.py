"""What does saving checkpoints cost? The same loop with and without, in alternation, on two workers.

    python benchmarks/checkpoint_cost.py                      # turns of about 20 ms: about three minutes
    python benchmarks/checkpoint_cost.py --turn-ms 200 --repeats 3

A model of 25 MB of parameters under Adam (75 MB a checkpoint), saved every 50 turns, synced to the disk of the working
directory. A turn of so large a model computes little; matrix products fill it up to the time that was asked for. Where
its turn takes longer without them (an all-reduce of 25 MB on few cores), what a checkpoint costs in milliseconds says
what it would be in turns of that time. The last checkpoint, which a loop waits for at its end, is not counted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet
from motet.running import run
from motet.testing import Gang

WIDTH = 1250  # four layers of 1250 x 1250: 25 MB
WARM_STEPS = 25  # so that the last checkpoint but that of the end is written while the loop goes on


def loop(num_steps: int, every: int, num_products: int) -> float:
    """Train; return the seconds after the first steps, the end of the writing not included."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4))))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    extra, x = torch.randn(256, 256), torch.randn(4, WIDTH)
    job = motet.current_job()
    start = job.checkpoint(model=model, optimizer=optimizer, every_turns=every) if every else None
    begin = 0.0
    for step in range(WARM_STEPS + num_steps):
        if step == WARM_STEPS:
            begin = time.perf_counter()
        for _ in range(num_products):
            extra @ extra
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if start is not None:
            start.save_point()
    return time.perf_counter() - begin


def measured(folder: str, num_steps: int, every: int, num_products: int) -> float:
    """On every worker: one run with that loop in it; return its seconds."""
    results = run({"saved": partial(loop, num_steps, every, num_products)}, run_dir=Path(folder))
    result = results["saved"]
    if result.status != "finished":
        raise RuntimeError(result.error)
    return float(result.result)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turn-ms", type=float, default=20.0)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    with Gang(options.workers, timeout_seconds=600) as gang, tempfile.TemporaryDirectory(dir=".") as folder:

        def seconds(number: int, every: int, steps: int, num_products: int) -> float:
            return max(gang.run(measured, f"{folder}/{number}-{every}", steps, every, num_products))

        bare = seconds(0, 0, 40, 0) / 40
        one = (seconds(1, 0, 40, 20) / 40 - bare) / 20
        num_products = max(0, round((options.turn_ms / 1e3 - bare) / one))
        rows = []
        for number in range(2, 2 + options.repeats):
            ways = [options.every, 0] if number % 2 else [0, options.every]
            took = {every: seconds(number, every, options.steps, num_products) for every in ways}
            cost = (took[options.every] - took[0]) / (options.steps // options.every) * 1e3
            rows.append((took[0] / options.steps * 1e3, took[options.every] / took[0], cost))
            print(f"turn {rows[-1][0]:.1f} ms, with checkpoints {rows[-1][1]:.3f} times as long", flush=True)
    ratio, turn, cost = (statistics.median(row[i] for row in rows) for i in (1, 0, 2))
    low, _, high = statistics.quantiles([row[1] for row in rows], n=4, method="inclusive")
    print(f"{ratio:.3f} times as long ({low:.3f}-{high:.3f}) at {turn:.1f} ms a turn, every {options.every} turns")
    share = cost / (options.every * options.turn_ms)
    print(f"{cost:.0f} ms a checkpoint, {share:.1%} of {options.every} turns of {options.turn_ms:g} ms")
    if options.json:
        figures = {"turn_ms": turn, "ratio": ratio, "low": low, "high": high, "checkpoint_ms": cost}
        options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
