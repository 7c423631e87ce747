"""What does a turn cost where processes hand it round and do nothing else, and what does Motet's own part take?

    python benchmarks/bare_turns.py    # about a minute, on one core

Forked processes train the tiny models of "sixteen tiny" under plain DDP, one worker each, and wake the next one after
each step: what a step takes longer among N than alone are the processor's caches, which hold other jobs' data then.
Then one process alone, with and without `motet.processes.turns`: the processor time of Motet's part of a turn.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time

STEPS, SKIPPED = 200, 20


def round_robin(num_jobs: int) -> float:
    """Return milliseconds a step, of all of them together."""
    import torch.distributed as dist
    from methods import loop_of
    from sets import SETS
    from torch.nn.parallel import DistributedDataParallel

    wake = [os.eventfd(0) for _ in range(num_jobs)]
    reading, writing = os.pipe()
    children = []
    for number in range(num_jobs):
        if (child := os.fork()) == 0:
            moments: list[float] = []

            def step_over(number: int = number, moments: list[float] = moments) -> None:
                moments.append(time.perf_counter())
                os.eventfd_write(wake[(number + 1) % num_jobs], 1)
                os.eventfd_read(wake[number])

            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            job = SETS["sixteen tiny"][f"tiny{number}"]
            loop = loop_of(job, STEPS, wrap=DistributedDataParallel, step_over=step_over)
            os.eventfd_read(wake[number])
            loop()
            os.eventfd_write(wake[(number + 1) % num_jobs], 1)
            if number == 0:
                seconds = (moments[-1] - moments[SKIPPED]) / (len(moments) - 1 - SKIPPED)
                os.write(writing, f"{1e3 * seconds / num_jobs}\n".encode())
            os._exit(0)
        children.append(child)
    os.eventfd_write(wake[0], 1)
    for child in children:
        os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as report:
        return float(report.read())


def own_part() -> float:
    """Return microseconds of processor time that a turn takes beside a model's own step, in a process of its own."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from motet.processes import waits
    from motet.processes.turn_table import Seat, Table
    from motet.processes.turns import JobTurns

    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        model, x = DistributedDataParallel(torch.nn.Linear(4, 4)), torch.ones(2, 4)

        def lap(turns: int = 2000) -> float:
            begin = time.thread_time()
            for _ in range(turns):
                model(x).sum().backward()
            return (time.thread_time() - begin) / turns * 1e6

        lap(500)
        plain = min(lap() for _ in range(5))
        table, wake = Table(16), [os.eventfd(0) for _ in range(16)]
        for seat in range(16):
            table.open_seat(seat)
        turns = JobTurns(Seat(table, 3, wake), lambda number: None)
        turns.begin()
        waits.patch(turns)
        turns.built(model)
        lap(500)
        os.write(writing, f"{min(lap() for _ in range(5)) - plain}\n".encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as report:
        return float(report.read())


def main() -> None:
    """Measure and print."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    rows: dict[int, list[float]] = {1: [], 2: [], 4: [], 16: []}
    for _ in range(3):
        for num_jobs, found in rows.items():
            found.append(round_robin(num_jobs))
    alone = statistics.median(rows[1])
    for num_jobs, found in rows.items():
        each = statistics.median(found)
        print(f"{num_jobs:2} processes: a step {each:.2f} ms, {each - alone:+.2f} ms for handing over")
    print(f"Motet's own part of a turn: {own_part():.0f} µs of processor time")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
