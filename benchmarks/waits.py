"""What does a worker's main thread do all the time, and what does it still wait for? Motet alone, on shaped links.

    sudo python benchmarks/waits.py                              # twins and the mixed four, balanced: about a minute
    sudo python benchmarks/waits.py --sets twins --mbit 700 --seconds 10

Shares of the time of all workers. "Waiting": for gradients that are in flight, queue for the link, or have not all left
another worker yet. "Between turns" is the rest, and holds what ends a run: the jobs' last optimizer steps, agreement on
their ends. A gap is what lies between two turns without waiting; before the first turn that counts there may be a long
one. "Uneven" is what the turns took longer than they would if each took the mean of all workers: each waits for
the others' gradients sooner or later, so the slowest counts.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from costs import balanced_rate, bound_of, measure_costs, units_for
from gang import gang

COLUMNS = ("computing", "waiting", "between turns", "link in use", "uneven", "spread of turns")
MILLISECONDS = ("a gap", "the longest gap")


def shares(parts: list[dict[str, Any]]) -> dict[str, float]:
    """Return the shares of the time between all workers' begin and end, from what each worker saw."""
    begin, end = min(part["begin"] for part in parts), max(part["end"] for part in parts)
    turns = [_inside(part["turns"], begin) for part in parts]
    syncs = [_inside(part["syncs"], begin) for part in parts]
    total = (end - begin) * len(parts)
    computed = sum(there - here for one in turns for here, there in one.values())
    waiting = sum(max(0.0, arrived - wait_begin) for one in syncs for _, arrived, wait_begin in one.values())
    in_use = [
        (max(one[key][0] for one in syncs), min(one[key][1] for one in syncs))
        for key in set.intersection(*map(set, syncs))
    ]
    lengths = {key: [one[key][1] - one[key][0] for one in turns] for key in set.intersection(*map(set, turns))}
    slowest, mean = (sum(map(of, lengths.values())) for of in (max, statistics.fmean))
    by_job: dict[str, list[float]] = {}
    for (job, _), these in lengths.items():
        by_job.setdefault(job, []).extend(these)
    spreads = [statistics.pstdev(these) / statistics.fmean(these) for these in by_job.values()]
    gaps = [gap for part in parts for gap in _gaps(part)]
    return {
        "computing": computed / total,
        "waiting": waiting / total,
        "between turns": 1 - (computed + waiting) / total,
        "link in use": _union(in_use) / (end - begin),
        "uneven": slowest / mean - 1,
        "spread of turns": statistics.fmean(spreads),
        "a gap": statistics.median(gaps),
        "the longest gap": max(gaps),
    }


def _gaps(part: dict[str, Any]) -> list[float]:
    """Return what lies between the turns of one worker, and before the first, less what was waited for; in seconds."""
    waited = {key: max(0.0, arrived - begin) for key, (_, arrived, begin) in _inside(part["syncs"], 0.0).items()}
    turns = sorted((begin, end, job, turn) for job, turn, begin, end in part["turns"] if begin >= part["begin"])
    ends = [part["begin"], *(end for _, end, _, _ in turns)]
    return [
        begin - end - waited.get((job, turn - 1), 0.0) for end, (begin, _, job, turn) in zip(ends, turns, strict=False)
    ]


def _inside(spans: list[list[Any]], begin: float) -> dict[tuple[str, int], list[float]]:
    """Return the times of what began when all was warm, by job and turn."""
    return {(job, turn): times for job, turn, *times in spans if times[0] >= begin}


def _union(spans: list[tuple[float, float]]) -> float:
    """Return for how long any of these was."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="twins,mixed four", help="comma-separated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--mbit", type=int, help="the links' rate, instead of a balanced one")
    parser.add_argument("--cap-mb", type=float, help="DDP's bucket_cap_mb")
    parser.add_argument("--repeats", type=int, default=3, help="the median is shown")
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    columns = [*COLUMNS, *(f"{name}, ms" for name in MILLISECONDS)]
    print("| set | link | efficiency | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 3), flush=True)
    for job_set in options.sets.split(","):
        with gang(options.workers) as workers:
            rate = None
            if workers.links is not None:
                rate = options.mbit * 10**6 if options.mbit else balanced_rate(workers, job_set)
            workers.set_rate(None if rate is None else f"{rate}bit")
            rows = []
            for _ in range(options.repeats):
                bound = bound_of(measure_costs(workers, job_set, options.seconds / 2, options.cap_mb))
                units = units_for(job_set, bound.seconds, options.seconds)
                found = workers.measure("watched", job_set, units, cap_mb=options.cap_mb)
                rows.append((units * bound.seconds / found.seconds, shares(found.parts)))
        link = f"{rate / 1e6:.0f} Mbit/s" if rate else "loopback"
        shown = [f"{statistics.median(row[column] for _, row in rows):.1%}" for column in COLUMNS]
        shown += [f"{statistics.median(row[column] for _, row in rows) * 1e3:.1f}" for column in MILLISECONDS]
        efficiency = statistics.median(row[0] for row in rows)
        print(f"| {job_set} | {link} | {efficiency:.3f} | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
