"""What does a turn cost? Sixteen jobs of about two milliseconds a step, one worker, against the same under plain DDP.

    python benchmarks/turn_cost.py            # about two minutes
    python benchmarks/turn_cost.py --profile  # where the time goes, by function

With one worker nothing is in flight: what the run takes longer than the loops one after another is what Motet does in a
turn (exchanging the global state, switching, starting the sync, finishing it, choosing the next job). The order is
given: determining one is done a few times a run, not every turn, and `benchmarks/unequal_jobs.py` measures it.

"Undisturbed" figures are of the shortest tenth of all stretches of sixteen turns (sixteen steps of one job, one after
another): what else the machine does makes them longer, and never shorter.

In between, the same loops take turns without Motet: a greenlet switch after every backward and nothing else. What
that costs over the plain loops are the processor's caches, which hold one job's data and code better than sixteen's;
nobody who interleaves can save it.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import sys
import time
from pathlib import Path

JOB_SET = "sixteen tiny"


def measure(steps: int, repeats: int, job_set: str) -> dict[str, object]:
    """Return milliseconds a turn, over the plain loops, by the wall clock and by the processor's."""
    from alternate import undisturbed
    from methods import measure as run
    from sets import SETS

    num_jobs = len(SETS[job_set])
    rows = []
    laps: dict[str, list[float]] = {"plain": [], "bare": [], "motet": []}
    for _ in range(repeats):
        command = {"set": job_set, "units": steps, "options": {"order": "round-robin"}}
        methods = ("ddp", "bare turns", "motet")
        plain, bare, motet = (run({"method": method, **command}, lambda: None) for method in methods)
        for name, measured in zip(laps, (plain, bare, motet), strict=True):
            laps[name] += measured.parts["laps"]
        turns = num_jobs * steps
        rows.append(
            {
                "plain_ms": (plain.end - plain.begin) / turns * 1e3,
                "bare_ms": (bare.end - bare.begin) / turns * 1e3,
                "motet_ms": (motet.end - motet.begin) / turns * 1e3,
                "plain_cpu_ms": plain.cpu_seconds / turns * 1e3,
                "motet_cpu_ms": motet.cpu_seconds / turns * 1e3,
            }
        )
        rows[-1]["turn_ms"] = rows[-1]["motet_ms"] - rows[-1]["plain_ms"]
        rows[-1]["over_bare_ms"] = rows[-1]["motet_ms"] - rows[-1]["bare_ms"]
        rows[-1]["turn_cpu_ms"] = rows[-1]["motet_cpu_ms"] - rows[-1]["plain_cpu_ms"]
    alone = {name: undisturbed(seconds) / num_jobs * 1e3 for name, seconds in laps.items()}
    alone |= {"turn": alone["motet"] - alone["plain"], "over bare": alone["motet"] - alone["bare"]}
    found: dict[str, object] = {key: spread([row[key] for row in rows]) for key in rows[0]}
    return found | {"undisturbed_ms": alone, "jobs": num_jobs, "steps": steps}


def spread(values: list[float]) -> dict[str, float]:
    """Return the median with the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {"median": middle, "low": low, "high": high}


def profile(steps: int, job_set: str) -> None:
    """Print what the main thread spends its time on, without the loops' own work."""
    from methods import measure as run

    profiler = cProfile.Profile(time.thread_time)  # of the main thread, whatever else the machine does
    profiler.enable()
    run({"method": "motet", "set": job_set, "units": steps, "options": {"order": "round-robin"}}, lambda: None)
    profiler.disable()
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(45)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--set", default=JOB_SET)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if options.profile:
        profile(options.steps, options.set)
        return
    figures = measure(options.steps, options.repeats, options.set)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    for key, value in figures.items():
        if key == "undisturbed_ms" and isinstance(value, dict):
            print("undisturbed, ms: " + ", ".join(f"{name} {ms:.3f}" for name, ms in value.items()))
        elif isinstance(value, dict):
            print(f"{key:>14}  {value['median']:.3f}   (quartiles {value['low']:.3f} to {value['high']:.3f})")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
