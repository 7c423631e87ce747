"""How near to the bound does each kind of order come, in replays of random jobs? Nothing is trained: some seconds.

python benchmarks/orders.py --sets 150 --seed 4
"""

from __future__ import annotations

import argparse
import random
import statistics

from motet.schedule.costs import Cost
from motet.schedule.order import round_robin
from motet.schedule.ready_first import ready_first
from motet.schedule.replay import TYPICAL, assumed_turns, best_order, fewer_turns, replay
from motet.schedule.weights import determine


def main() -> None:
    """Replay and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=150)
    parser.add_argument("--seed", type=int, default=4)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    kinds = ("round robin", "determined", "found by trying", "best of these")
    found: dict[bool, list[list[float]]] = {True: [], False: []}
    for number in range(options.sets):
        names = [f"job{job}" for job in range(chance.randint(2, 8))]
        costs = {name: Cost(10 ** chance.uniform(-2.5, 0), 10 ** chance.uniform(-2.5, 0)) for name in names}
        known = number % 2 == 0
        remaining = {name: chance.randint(20, 400) if known else None for name in names}
        turns = fewer_turns(assumed_turns(costs, remaining), 600)
        determined = determine(costs, remaining)
        tried = ready_first(costs, determined, TYPICAL) or determined
        orders = (round_robin(names), determined, tried, best_order(costs, remaining))
        found[known].append(
            [replay(order, costs, turns, num_workers=1, keep_spans=False).efficiency for order in orders]
        )
    print("| lengths | order | median | worst |\n|---|---|---|---|")
    for known, rows in found.items():
        for kind, values in zip(kinds, zip(*rows, strict=True), strict=True):
            lengths = "known" if known else "not known"
            print(f"| {lengths} | {kind} | {statistics.median(values):.3f} | {min(values):.3f} |")


if __name__ == "__main__":
    main()
