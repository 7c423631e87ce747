"""What does determining the order gain for jobs that are unequal? Two such jobs, on a shaped link.

    sudo python benchmarks/unequal_jobs.py                 # three repeats, about 10 to 20 minutes
    sudo python benchmarks/unequal_jobs.py --repeats 1 --units 10
    sudo python benchmarks/unequal_jobs.py --repeats 1 --ways round-robin determined   # without plain DDP

An embedding-heavy job takes few turns, each with much to send; a job of few parameters takes ten times as many, each
with much to compute; over the whole run, what travels takes about as long as what computes. In alternation: a round
robin, and what ``motet run`` does by itself (a round robin until the costs are known, then an order from them).
Everything from the first turn on is counted, the profile included. All weights must be the same, bit for bit, and
those of plain DDP. Told as well: after how many turns the order changed, and what each job's first turns took.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

JOB_SET = "unequal"
WAYS = ("plain", "round-robin", "determined")
FIRST_TURNS = 8


def digest(model: Any) -> str:
    """Return a fingerprint of a model's weights and buffers."""
    seen = hashlib.sha256()
    for name, value in model.module.state_dict().items():
        seen.update(name.encode())
        seen.update(value.contiguous().numpy().tobytes())
    return seen.hexdigest()[:16]


def work(way: str, units: int) -> dict[str, Any]:
    """Train the jobs on this worker in one way; return seconds, fingerprints and changes of the order."""
    import torch
    import torch.distributed as dist
    from jobs.loop import WARM_STEPS
    from methods import loop_of
    from sets import SETS
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    import motet
    from motet.events import Event, OrderChanged, SyncEnded, TurnEnded
    from motet.jobs import Job

    class Changes:
        def __init__(self) -> None:
            self.reasons: list[str] = []
            self.num_turns = dict.fromkeys(SETS[JOB_SET], 0)
            self.computed: dict[str, list[float]] = {name: [] for name in SETS[JOB_SET]}
            self.synced: dict[str, list[float]] = {name: [] for name in SETS[JOB_SET]}

        def observe(self, event: Event) -> None:
            if isinstance(event, OrderChanged):
                after = " and ".join(f"{turns} of {name}" for name, turns in self.num_turns.items())
                self.reasons.append(f"{event.reason}: {','.join(event.order)} (after {after})")
            elif isinstance(event, TurnEnded):
                self.num_turns[event.job] += 1
                if event.turn <= FIRST_TURNS:
                    self.computed[event.job].append(round(event.time - event.begin, 4))
            elif isinstance(event, SyncEnded) and event.turn <= FIRST_TURNS:
                self.synced[event.job].append(round(event.completed - event.launched, 4))

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    models: dict[str, nn.Module] = {}

    def wrap_as(name: str) -> Any:
        def wrap(model: nn.Module) -> nn.Module:
            models[name] = DistributedDataParallel(model)
            return models[name]

        return wrap

    loops = {name: loop_of(job, units, wrap=wrap_as(name)) for name, job in SETS[JOB_SET].items()}
    turns = {name: WARM_STEPS + job.steps * units for name, job in SETS[JOB_SET].items()}
    changes, efficiency, figures = Changes(), None, {}
    dist.barrier()
    begin = time.perf_counter()
    if way == "plain":
        for loop in loops.values():
            loop()
    else:
        jobs = [Job(name, loop, turns[name]) for name, loop in loops.items()]
        results = motet.run(jobs, order="round-robin" if way == "round-robin" else None, observers=[changes])
        assert all(job.status == "finished" for job in results.jobs.values()), results
        efficiency = results.efficiency
        figures = {name: [job.compute_seconds, job.sync_seconds] for name, job in results.jobs.items()}
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "weights": {name: digest(model) for name, model in models.items()},
        "changes": changes.reasons,
        "efficiency": efficiency,
        "figures": figures,
        "first_turns": {name: [changes.computed[name], changes.synced[name]] for name in SETS[JOB_SET]},
    }


def measure(net: Any, way: str, units: int) -> dict[str, Any]:
    """Start both workers, each on a core of its own, and return what they found."""
    cores = sorted(os.sched_getaffinity(0))
    workers = []
    for worker in range(2):
        pinned = ["taskset", "-c", str(cores[worker % len(cores)])]
        command = [*pinned, sys.executable, __file__, "--worker", way, "--units", str(units)]
        env = {**net.torchrun_env(worker), "OMP_NUM_THREADS": "1"}
        workers.append(net.popen(worker, command, env=env, stdout=subprocess.PIPE, text=True))
    notices = [json.loads(worker.communicate(timeout=900)[0].splitlines()[-1]) for worker in workers]
    assert notices[0]["weights"] == notices[1]["weights"], "the workers' weights differ"
    assert [change.split(":")[0] for change in notices[0]["changes"]] == [
        c.split(":")[0] for c in notices[1]["changes"]
    ]
    return {**notices[0], "seconds": max(one["seconds"] for one in notices)}


def balanced() -> str:
    """Return the rate at which what travels takes, over the whole run, about as long as what computes here."""
    from costs import balanced_rate
    from gang import gang

    with gang(2) as workers:
        return f"{round(balanced_rate(workers, JOB_SET, seconds=6.0) / 1e6)}mbit"


def main() -> None:
    """Measure in alternation and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", help="of the links; without, what travels takes as long as what computes")
    parser.add_argument(
        "--units", type=int, default=40, help="turns of the embedding-heavy job; ten times of the other"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="what to measure (all); plain DDP once")
    parser.add_argument("--json", type=Path, help="a file for all that was measured")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.worker, options.units)))
        sys.stdout.flush()
        os._exit(0)
    from motet.shaped_links import shaped_links

    rows: list[dict[str, Any]] = []
    rate = options.rate or balanced()
    with shaped_links(2, rate=rate) as net:
        for repeat in range(options.repeats):
            for way in (way for way in WAYS if way in options.ways):
                if way == "plain" and repeat > 0:
                    continue  # once: for the weights
                rows.append({"way": way, **measure(net, way, options.units)})
                row = rows[-1]
                sys.stderr.write(f"{way}: {row['seconds']:.2f} s {row['efficiency']} {row['figures']}\n")
                sys.stderr.writelines(f"  {change}\n" for change in row["changes"])
                for name, (computed, synced) in row["first_turns"].items():
                    if computed:
                        sys.stderr.write(f"  {name}: first turns computed {computed} s, synchronized {synced} s\n")
    weights = {json.dumps(row["weights"]) for row in rows}
    assert len(weights) == 1, f"the weights depend on the way: {weights}"
    ways = [way for way in WAYS if way in options.ways]
    seconds = {way: statistics.median(row["seconds"] for row in rows if row["way"] == way) for way in ways}
    print(f"{rate}, {options.units} turns and {10 * options.units}; the same weights {len(rows)} times")
    for way in ways:
        print(f"  {way:12} {seconds[way]:7.2f} s")
    if set(WAYS[1:]) <= set(ways):
        by_way = [[row["seconds"] for row in rows if row["way"] == way] for way in WAYS[1:]]
        ratios = sorted(slow / fast for slow, fast in zip(*by_way, strict=True))
        median = statistics.median(ratios)
        print(f"  determined is {median:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times as fast as a round robin")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
