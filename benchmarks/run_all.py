"""Train sets of jobs in every way that people have, on links of several speeds, and say how long each takes.

    python benchmarks/run_all.py --quick     # two sets on a balanced link: a few minutes
    python benchmarks/run_all.py             # everything, two workers and four: some hours

Every worker is in a network namespace of its own, on a link that is held to a rate; where root is missing, all is
measured on loopback instead, and the report says so. See README.md for the method and the results.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import memory
import report
from alternate import alternate, median_seconds
from costs import balanced_rate, bound_of, costs_of, measure_costs, units_for
from gang import Figures, Gang, gang
from sets import SETS

from motet.shaped_links import why_not

MEASURED = ("twins", "complementary", "mixed four", "eight small", "heterogeneous six", "one alone")
LINKS = {"network-bound": 0.4, "balanced": 1.0, "compute-bound": 2.5, "unshaped": None}
CAPS_MB: tuple[float | None, ...] = (None, 8, 4, 2, 1)  # None: DDP's default, 25 with a first bucket of 1


def measure_set(workers: Gang, job_set: str, links: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one set on all links; return a row for each."""
    rate = balanced_rate(workers, job_set, options.seconds / 2) if workers.links is not None else None
    rows = []
    for link in links:
        factor = LINKS[link]
        link_rate = None if rate is None or factor is None else f"{round(rate * factor)}bit"
        workers.set_rate(link_rate)
        print(f"{job_set}, {workers.num_workers} workers, {link}, {link_rate or 'no limit'}", file=sys.stderr)
        rows.append({"link": link, "rate": link_rate, **measure_link(workers, job_set, options)})
    return rows


def measure_link(workers: Gang, job_set: str, options: argparse.Namespace) -> dict[str, Any]:
    """Tune buckets, then measure every method in alternation; return the figures."""
    first = bound_of(measure_costs(workers, job_set, options.seconds / 2))
    units = units_for(job_set, max(first.seconds, (first.compute + first.network) / 1.5), options.seconds)
    caps = tune(workers, job_set, units, options.quick)
    names = list(SETS[job_set])
    run = partial(workers.measure, job_set=job_set, units=units)
    methods: dict[str, Callable[[], Figures]] = {
        "ddp, default buckets": partial(run, "ddp"),
        "ddp, tuned buckets": partial(run, "ddp", cap_mb=caps["ddp"]),
        "no overlap": partial(run, "no overlap"),
        "motet": partial(run, "motet", cap_mb=caps["ddp"]),
        "costs": partial(run, "costs", cap_mb=caps["motet"]),
    }
    if caps["motet"] != caps["ddp"]:
        methods["motet, tuned buckets"] = partial(run, "motet", cap_mb=caps["motet"])
    if len(names) > 1:
        methods["lock step"] = partial(run, "lock step", cap_mb=caps["motet"])
        methods["side by side"] = partial(workers.measure_side_by_side, job_set, names, units, cap_mb=caps["ddp"])
    rows = alternate(methods, options.repeats, job_set)
    return {
        "units": units,
        "caps_mb": caps,
        "bounds": [asdict(bound_of(costs_of(figures))) | {"units": units} for figures in rows.pop("costs")],
        "seconds": {name: [f.seconds for f in figures] for name, figures in rows.items()},
        "sent_mb": {name: figures[-1].sent_bytes / 1e6 for name, figures in rows.items()},
        "parts": rows["motet"][-1].parts[0]["jobs"],
    }


def tune(workers: Gang, job_set: str, units: int, quick: bool) -> dict[str, float | None]:
    """Return the bucket sizes with which DDP, and with which Motet, is fastest here."""
    candidates = CAPS_MB[::2] if quick else CAPS_MB
    short = max(1, units // 2)
    best: dict[str, float | None] = {}
    for method in ("ddp", "motet"):
        runs = {str(cap): partial(workers.measure, method, job_set, short, cap_mb=cap) for cap in candidates}
        rows = alternate(runs, 1 if quick else 3, f"{job_set}, buckets of {method}")
        best[method] = min(candidates, key=lambda cap: median_seconds(rows[str(cap)]))
    return best


def machine() -> dict[str, Any]:
    """Return what was measured on, and when."""
    cpu = next(x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    import torch

    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "kernel": platform.release(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "links": why_not() or "network namespaces, tc tbf on both ends of every link",
    }


def main() -> None:
    """Measure, and write JSON, a table and plots."""
    options = parse()
    if why := why_not():
        print(f"Everything is measured on loopback, with no limit: {why}", file=sys.stderr)
    results: dict[str, Any] = {"machine": machine(), "options": vars(options) | {"out": str(options.out)}, "sets": []}
    options.out.mkdir(parents=True, exist_ok=True)
    for num_workers in options.workers:
        for job_set in options.sets:
            with gang(num_workers) as workers:
                core_each = workers.core_each
                links = options.links if workers.links is not None else ["unshaped"]
                rows = measure_set(workers, job_set, links, options)
            used = memory.measure(job_set, num_workers) if options.memory else {}
            results["sets"].append(
                {"set": job_set, "workers": num_workers, "core_each": core_each, "links": rows, "memory_mb": used}
            )
            (options.out / "results.json").write_text(json.dumps(results, indent=1))
            report.write(results, options.out)
    print(report.table(results))


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def several(text: str) -> list[str]:
        return [word.strip() for word in text.split(",")]

    parser.add_argument("--quick", action="store_true", help="twins and complementary, balanced, two workers")
    parser.add_argument("--sets", type=several, help=f"of: {', '.join(MEASURED)}")
    parser.add_argument("--links", type=several, help=f"of: {', '.join(LINKS)}")
    parser.add_argument("--workers", type=lambda text: [int(word) for word in several(text)], help="such as 2,4")
    parser.add_argument("--repeats", type=int, help="how often each method is measured")
    parser.add_argument("--seconds", type=float, help="how long one measurement takes, roughly")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave memory out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="where to write")
    options = parser.parse_args()
    options.sets = options.sets or list(MEASURED[:2] if options.quick else MEASURED)
    options.links = options.links or (["balanced"] if options.quick else list(LINKS))
    options.workers = options.workers or ([2] if options.quick else [2, 4])
    options.repeats = options.repeats or (3 if options.quick else 9)
    options.seconds = options.seconds or (2.0 if options.quick else 4.0)
    for given, known in ((options.sets, SETS), (options.links, LINKS)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(known)}")
    return options


if __name__ == "__main__":
    main()
