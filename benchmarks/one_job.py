"""Does one job under Motet keep the speed that it has under plain DDP? On loopback, where nothing can be hidden.

    python benchmarks/one_job.py                    # one job, two workers: two minutes
    python benchmarks/one_job.py --sets twins,"mixed four"     # several jobs, where the link is not the bottleneck

Above 1 means that Motet is faster.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path

from alternate import Spread, alternate, ratios
from costs import units_for
from gang import Gang, gang


def measure(workers: Gang, job_set: str, repeats: int, seconds: float) -> dict[str, Spread]:
    """Return plain DDP's time over Motet's, and the same by processor time."""
    first = workers.measure("ddp", job_set, 2)
    run = partial(workers.measure, job_set=job_set, units=units_for(job_set, first.seconds / 2, seconds))
    rows = alternate({method: partial(run, method) for method in ("ddp", "motet")}, repeats, job_set)
    plain, motet = rows["ddp"], rows["motet"]
    cpu = [type(row)(row.cpu_seconds, 0.0, 0) for row in plain], [type(row)(row.cpu_seconds, 0.0, 0) for row in motet]
    return {"speed": ratios(plain, motet), "processor": ratios(*cpu)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="one alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    found = {}
    with gang(options.workers, shaped=False) as workers:
        for name in options.sets.split(","):
            found[name] = measure(workers, name, options.repeats, options.seconds)
            print(f"{name}: {found[name]['speed']} of plain DDP's speed; by processor time {found[name]['processor']}")
    if options.json:
        plain = {name: {key: asdict(value) for key, value in one.items()} for name, one in found.items()}
        options.json.write_text(json.dumps(plain, indent=1))


if __name__ == "__main__":
    main()
