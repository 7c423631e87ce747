"""Runs that never happened: event streams as the pipeline makes them, and run directories made from them.

The workers compute one job at a time in a cyclic order; each sync starts within its turn (the first buckets leave
during backward) and takes the link for itself. All times are made up from a seeded generator.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motet.events import (
    Event,
    JobEnded,
    JobStarted,
    MetricsLogged,
    Notice,
    Observer,
    OrderChanged,
    RunEnded,
    RunStarted,
    SyncEnded,
    TurnEnded,
)
from motet.observe.account import Account
from motet.observe.metrics import MetricsWriter
from motet.observe.trace import TraceRecorder
from motet.results import JobResult, Results

UNIX_BEGIN = 1_790_000_000.0


@dataclass
class Plan:
    """One made-up job: seconds per turn of computing and of sync, and how it ends."""

    turns: int
    compute_seconds: float
    sync_seconds: float
    num_bytes: int = 4_000_000
    status: str = "finished"
    error: str | None = None
    what: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[str] = ("loss",)


THREE = {
    "gpt": Plan(
        400, 0.031, 0.017, 26_000_000, what={"target": "motet.demo:byte_gpt", "arguments": {"num_layers": 4}},
        metrics=("loss", "lr"),
    ),
    "recommender": Plan(
        400, 0.009, 0.038, 61_000_000, what={"target": "motet.demo:recommender", "arguments": {"width": 64}}
    ),
    "conv": Plan(
        400, 0.016, 0.004, 3_100_000, what={"kind": "script", "target": "train_conv.py", "arguments": ["--lr", "1e-3"]},
        metrics=("loss", "val_accuracy"),
    ),
}  # fmt: skip


def sixteen() -> dict[str, Plan]:
    """Return a sweep of sixteen jobs, of which one fails and one is pruned."""
    rng = random.Random(16)
    plans = {}
    for index in range(16):
        rate, width = 10 ** -(1 + index % 4), 64 * 2 ** (index // 4)
        plan = Plan(
            rng.randint(60, 120), rng.uniform(0.004, 0.012), rng.uniform(0.004, 0.02), rng.randint(1, 20) * 1_000_000
        )
        plan.what = {"kind": "script", "target": "train.py", "arguments": [f"--lr={rate:g}", f"--width={width}"]}
        plans[f"lr{rate:g}-width{width}"] = plan
    names = list(plans)
    plans[names[3]].status, plans[names[3]].turns = "failed", 17
    plans[
        names[3]
    ].error = 'Traceback (most recent call last):\n  File "train.py", line 41, in <module>\nValueError: loss is <nan>'
    plans[names[9]].status, plans[names[9]].turns = "pruned", 30
    return plans


def streams(
    plans: Mapping[str, Plan], num_workers: int = 2, *, seed: int = 1, start: float = 5000.0, unix: float = UNIX_BEGIN
) -> list[list[Event]]:
    """Return each worker's events."""
    rng = random.Random(seed)
    names = tuple(plans)
    starts = [start + 1000.0 * worker for worker in range(num_workers)]  # every process has its own perf_counter
    out: list[list[Event]] = [
        [RunStarted(begin, unix, worker, num_workers, names, names)] for worker, begin in enumerate(starts)
    ]
    free = [0.4] * num_workers  # seconds since the run began
    link_free = 0.0
    in_flight: dict[str, tuple[int, list[float], float]] = {}
    turns = dict.fromkeys(names, 0)
    computed: list[list[tuple[float, float]]] = [[] for _ in starts]

    def say(worker: int, event: Event) -> None:
        out[worker].append(event)

    for name in names:
        for worker, begin in enumerate(starts):
            expected = plans[name].turns if plans[name].status == "finished" else 120
            say(worker, JobStarted(begin + free[worker], name, expected))
    live = list(names)
    while live:
        for name in list(live):
            plan = plans[name]
            if name in in_flight:
                turn, launched, completed = in_flight.pop(name)
                for worker, begin in enumerate(starts):
                    wait_begin = free[worker]
                    free[worker] = max(wait_begin, completed) + 30e-6
                    hidden = sum(
                        max(0.0, min(e, completed) - max(b, launched[worker])) for b, e in computed[worker][-40:]
                    )
                    say(
                        worker,
                        SyncEnded(
                            begin + free[worker], name, turn, begin + launched[worker], begin + completed,
                            begin + wait_begin, hidden, plan.num_bytes, 1 + plan.num_bytes // 25_000_000,
                        ),
                    )  # fmt: skip
            if turns[name] == plan.turns:
                live.remove(name)
                for worker, begin in enumerate(starts):
                    say(worker, JobEnded(begin + free[worker], name, plan.status, plan.turns, plan.error))
                    say(worker, OrderChanged(begin + free[worker], tuple(live) or names, f"{name} ended"))
                continue
            turns[name] += 1
            launched = []
            for worker, begin in enumerate(starts):
                first = free[worker]
                free[worker] += plan.compute_seconds * rng.uniform(0.93, 1.15)
                computed[worker].append((first, free[worker]))
                launched.append(free[worker] - 0.25 * plan.compute_seconds)
                values = _values(plan, name, turns[name], rng)
                if values:
                    say(worker, MetricsLogged(begin + free[worker] - 1e-5, name, turns[name], values))
                say(worker, TurnEnded(begin + free[worker], name, turns[name], begin + first, num_workers > 1))
            if num_workers > 1:
                link_free = max(link_free, *launched) + plan.sync_seconds * rng.uniform(0.95, 1.1)
                in_flight[name] = (turns[name], launched, link_free)
    for worker, begin in enumerate(starts):
        say(worker, Notice(begin + free[worker], None, "metrics of worker 1 were not recorded"))
        say(worker, RunEnded(begin + free[worker] + 0.2, max(free) + 0.2))
    return out


def _values(plan: Plan, name: str, turn: int, rng: random.Random) -> dict[str, float]:
    if not plan.metrics:
        return {}
    speed = 0.5 + (sum(map(ord, name)) % 7) / 5
    progress = 1 - math.exp(-3 * speed * turn / max(60, plan.turns))
    values = {"loss": 2.4 - 1.7 * progress * min(1.0, speed) + rng.gauss(0, 0.05)}
    if "lr" in plan.metrics:
        values["lr"] = 1e-3 * (1 - turn / (plan.turns + 1))
    if "val_accuracy" in plan.metrics and turn % 50 == 0:
        values["val_accuracy"] = 0.3 + 0.6 * progress
    return values


def endless(num_turns: int, jobs: Sequence[str] = ("a", "b")) -> Iterator[Event]:
    """Yield a worker's events of a long run, cheaply: two records a turn, no logged values."""
    yield RunStarted(0.0, UNIX_BEGIN, 0, 1, tuple(jobs), tuple(jobs))
    for number in range(num_turns):
        job, begin = jobs[number % len(jobs)], number * 0.010
        yield TurnEnded(begin + 0.008, job, number // len(jobs) + 1, begin, True)
        yield SyncEnded(
            begin + 0.010, job, number // len(jobs) + 1, begin + 0.006, begin + 0.0095, begin + 0.008, 0.002, 1000, 1
        )
    yield RunEnded(num_turns * 0.010, num_turns * 0.010)


def record(run_dir: Path, plans: Mapping[str, Plan], num_workers: int = 2, **extra: Any) -> Path:
    """Write a whole run directory, as the pipeline would; ``extra`` goes into results.json."""
    run_dir.mkdir(parents=True, exist_ok=True)
    all_streams = streams(plans, num_workers)
    for events in all_streams:
        observers: list[Observer] = [TraceRecorder(run_dir), MetricsWriter(run_dir)]
        for event in events:
            for observer in observers:
                observer.observe(event)
    account = Account()
    for event in all_streams[0]:
        account.observe(event)
    jobs = {
        name: JobResult(
            plan.status,  # type: ignore[arg-type]
            plan.turns,
            account.jobs[name].compute_seconds,
            account.jobs[name].sync_seconds,
            account.jobs[name].hidden_seconds,
            0.93 if plan.status == "finished" else None,
            plan.error,
        )
        for name, plan in plans.items()
    }
    results = Results(jobs, num_workers, account.seconds)
    (run_dir / "results.json").write_text(json.dumps({**results.to_json(), **extra}))
    description = {
        "format_version": 1,
        "command": ["motet", "run", "--nproc-per-node", str(num_workers), "jobs.yaml"],
        "jobs": [{"name": name, "turns": plan.turns, **plan.what} for name, plan in plans.items()],
        "versions": {"motet": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
        "seed": 0,
    }
    (run_dir / "run.json").write_text(json.dumps(description))
    return run_dir
