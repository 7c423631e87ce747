"""What does it take to hand a turn from one job's process to the next?

    python benchmarks/handover.py            # a few seconds

Processes that do nothing but take a turn and give it away, on one core, and on all.
"""

from __future__ import annotations

import os
import time

from motet.processes.turn_table import Seat, Stretch, Table

TURNS = 3000


def measure(num_jobs: int) -> float:
    """Return microseconds from one turn's begin to the next one's."""
    table = Table(num_jobs)
    wake = [os.eventfd(0) for _ in range(num_jobs)]
    for seat in range(num_jobs):
        table.open_seat(seat)
    table.follow(list(range(num_jobs)), wake)
    begin = time.perf_counter()
    children = []
    for number in range(num_jobs):
        child = os.fork()
        if child == 0:
            seat = Seat(table, number, wake)
            for turn in range(TURNS):
                seat.acquire()
                seat.release(synchronizes=True)
                seat.write(Stretch(0, 0, 0, turn, True))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return (time.perf_counter() - begin) / (TURNS * num_jobs) * 1e6


def main() -> None:
    """Measure and print."""
    cores = os.sched_getaffinity(0)
    for where, allowed in (("one core", {min(cores)}), ("all cores", cores)):
        os.sched_setaffinity(0, allowed)
        for num_jobs in (2, 4, 16):
            print(f"{where}: {num_jobs:2} jobs, {measure(num_jobs):5.1f} µs a turn")


if __name__ == "__main__":
    main()
