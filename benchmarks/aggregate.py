"""What does aggregation cost against an all-reduce? The same jobs with both, at two and four workers, on shaped links.

    sudo python benchmarks/aggregate.py                     # about 10 minutes
    sudo python benchmarks/aggregate.py --num-workers 2 --repeats 1 --units 5

In alternation, in one run: all-reduce, every worker in turn, and worker 0 alone as the aggregator. An all-reduce and
aggregators in turn send 2 (W-1)/W of the bytes over each link; one aggregator's own link carries W-1 times the bytes,
in each direction.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

from gang import gang

WAYS: dict[str, dict[str, Any]] = {
    "all-reduce": {},
    "each in turn": {"sync": "aggregate"},
    "worker 0": {"sync": "aggregate", "aggregators": [0]},
}


def main() -> None:
    """Measure in alternation and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--set", default="complementary")
    parser.add_argument("--rate", default="300mbit")
    parser.add_argument("--num-workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--units", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for num_workers in options.num_workers:
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        with gang(num_workers) as workers:
            workers.set_rate(options.rate)
            for _ in range(options.repeats):
                for way, given in WAYS.items():
                    figures = workers.measure(
                        "motet", options.set, options.units, options={"order": "round-robin", **given}
                    )
                    seconds[way].append(figures.seconds)
                    sys.stderr.write(f"{num_workers} workers, {way}: {figures.seconds:.2f} s\n")
        print(f"{options.set}, {options.units} turns each, {num_workers} workers at {options.rate}")
        for way, measured in seconds.items():
            print(f"  {way:14} {statistics.median(measured):7.2f} s")


if __name__ == "__main__":
    main()
