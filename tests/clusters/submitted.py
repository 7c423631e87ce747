"""What submitit runs in each of its tasks."""

from __future__ import annotations

import functools

from tests.distributed.jobs_faulty import loop

import motet


def train() -> list[str]:
    """Train two jobs on all tasks, and return their weights."""
    jobs = {name: functools.partial(loop, steps=20, every=5, seed=seed) for name, seed in {"a": 1, "b": 2}.items()}
    results = motet.run(jobs, run_dir="out")
    assert results.num_workers == 2
    return [results[name].result["weights"] for name in jobs]
