"""Does one job under Motet keep the speed that it has under plain DDP? On loopback, where nothing can be hidden.

    python benchmarks/one_job.py                    # one job, two workers: two minutes
    python benchmarks/one_job.py --sets twins,"mixed four"     # several jobs, where the link is not the bottleneck
    python benchmarks/one_job.py --parts            # also without what only several jobs need, by the wall clock

Above 1 means that Motet is faster. "Undisturbed" compares the shortest tenth of each one's steps: what else the machine
does makes steps longer, and never shorter.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from alternate import Spread, alternate, ratios, spread, undisturbed
from costs import units_for
from gang import Gang, gang
from sets import SETS


def measure(workers: Gang, job_set: str, repeats: int, seconds: float) -> dict[str, Spread]:
    """Return plain DDP's time over Motet's, by whole runs, by undisturbed steps of one job, and by processor time."""
    first = workers.measure("ddp", job_set, 2)
    run = partial(workers.measure, job_set=job_set, units=units_for(job_set, first.seconds / 2, seconds))
    rows = alternate({method: partial(run, method) for method in ("ddp", "motet")}, repeats, job_set)
    plain, motet = rows["ddp"], rows["motet"]
    cpu = [type(row)(row.cpu_seconds, 0.0, 0) for row in plain], [type(row)(row.cpu_seconds, 0.0, 0) for row in motet]
    found = {"speed": ratios(plain, motet), "by processor time": ratios(*cpu)}
    if len(SETS[job_set]) == 1:
        steps = [[undisturbed(row.parts[0]["laps"]) for row in rows] for rows in (plain, motet)]
        found["undisturbed"] = spread([a / b for a, b in zip(*steps, strict=True)])
    return found


PARTS = {
    "as it is": {},
    "without the queue": {"window": 1 << 40},
    "switch interval of 5 ms": {"switch_seconds": 0.005},
    "neither": {"window": 1 << 40, "switch_seconds": 0.005},
}


def measure_parts(workers: Gang, job_set: str, repeats: int, seconds: float) -> dict[str, Spread]:
    """Return plain DDP's time over Motet's, as it is and without what a job alone does not need."""
    first = workers.measure("ddp", job_set, 2)
    run = partial(workers.measure, job_set=job_set, units=units_for(job_set, first.seconds / 2, seconds))
    ways = {name: partial(run, "motet", knobs=knobs) for name, knobs in PARTS.items()}
    rows = alternate({"ddp": partial(run, "ddp"), **ways}, repeats, job_set)
    return {name: ratios(rows["ddp"], rows[name]) for name in PARTS}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="one alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    found = {}
    with gang(options.workers, shaped=False) as workers:
        for name in options.sets.split(","):
            found[name] = (measure_parts if options.parts else measure)(workers, name, options.repeats, options.seconds)
            shown = "; ".join(f"{key} {value}" for key, value in found[name].items())
            print(f"{name}, over plain DDP: {shown}")
    if options.json:
        plain = {name: {key: asdict(value) for key, value in one.items()} for name, one in found.items()}
        options.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
