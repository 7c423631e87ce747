"""Each decision that Motet takes for its users, measured: Motet with one knob turned, in alternation.

    python benchmarks/what_it_takes.py lanes            # one lane for all gradients, or one a job
    python benchmarks/what_it_takes.py queue            # gradients of several jobs queue for the link, or share it
    python benchmarks/what_it_takes.py gloo-threads     # threads of each lane
    python benchmarks/what_it_takes.py agreements       # how often the workers agree
    python benchmarks/what_it_takes.py buckets          # DDP's bucket size, for plain DDP and for Motet

About five minutes each with two workers. Times are over those of the first column; below 1 is faster.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from alternate import alternate, ratios
from costs import balanced_rate, bound_of, measure_costs, units_for
from gang import Figures, Gang, gang

QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "lanes": {
        "one a job": {"method": "motet"},
        "one, one thread, no queue": {"method": "motet", "knobs": {"lanes": 1, "gloo_threads": 1, "window": 1 << 40}},
        "two": {"method": "motet", "knobs": {"lanes": 2}},
        "one": {"method": "motet", "knobs": {"lanes": 1}},
    },
    "queue": {
        "shared": {"method": "motet", "knobs": {"window": 1 << 40}},
        "queued": {"method": "motet"},
        "queued, no window": {"method": "motet", "knobs": {"window": 0}},
        "queued, handover in 5 ms": {"method": "motet", "knobs": {"switch_seconds": 0.005}},
    },
    "gloo-threads": {
        "two (torch's)": {"method": "motet"},
        **{str(n): {"method": "motet", "knobs": {"gloo_threads": n}} for n in (1, 2, 4)},
    },
    "agreements": {f"every {s} s": {"method": "motet", "knobs": {"agree_every": s}} for s in (0.5, 0.02, 0.1, 5.0)},
    "buckets": {
        f"{method}, {'default' if cap is None else f'{cap} MB'}": {"method": method, "cap_mb": cap}
        for method in ("ddp", "motet")
        for cap in (None, 25, 8, 4, 2, 1)
    },
}
SETS_FOR = {
    "queue": ["complementary", "twins", "eight small"],
    "lanes": ["twins", "complementary", "eight small", "heterogeneous six"],
    "gloo-threads": ["twins", "complementary", "eight small"],
    "agreements": ["two tiny", "twins"],
    "buckets": ["twins", "complementary", "mixed four"],
}


def measure(
    workers: Gang, question: str, job_set: str, factor: float, given: int | None, repeats: int, seconds: float
) -> dict[str, Any]:
    """Return each answer's time over the first one's, at a rate ``given``, or one so many times a balanced one."""
    rate = None
    if workers.links is not None:
        rate = given or round(balanced_rate(workers, job_set) * factor)
    workers.set_rate(None if rate is None else f"{rate}bit")
    bound = bound_of(measure_costs(workers, job_set, seconds / 2))
    units = units_for(job_set, bound.seconds, seconds)
    runs: dict[str, Callable[[], Figures]] = {
        name: partial(workers.measure, job_set=job_set, units=units, **options)
        for name, options in QUESTIONS[question].items()
    }
    rows = alternate(runs, repeats, f"{question}: {job_set}")
    first = rows[next(iter(rows))]
    return {
        "rate_mbit": None if rate is None else rate / 1e6,
        "over_first": {name: asdict(ratios(figures, first)) for name, figures in rows.items()},
        "over_bound": {
            name: sorted(f.seconds / (units * bound.seconds) for f in figures) for name, figures in rows.items()
        },
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", choices=QUESTIONS)
    parser.add_argument("--sets", help="comma-separated")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--links", default="1.0", help="how many times as fast as a balanced link: 0.4,1.0,2.5")
    parser.add_argument("--mbit", type=int, help="the links' rate, instead of one found from the set's costs")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    sets = options.sets.split(",") if options.sets else SETS_FOR[options.question]
    answers = list(QUESTIONS[options.question])
    found: dict[str, Any] = {}
    print("| set | link | " + " | ".join(answers) + " |\n|" + "---|" * (len(answers) + 2), flush=True)
    for job_set in sets:
        for factor in map(float, options.links.split(",")):
            with gang(options.workers) as workers:
                one = measure(
                    workers,
                    options.question,
                    job_set,
                    factor,
                    options.mbit and options.mbit * 10**6,
                    options.repeats,
                    options.seconds,
                )
            found[f"{job_set}, {factor}"] = one
            shown = [f"{s['median']:.3f} ({s['low']:.3f}-{s['high']:.3f})" for s in one["over_first"].values()]
            link = f"{one['rate_mbit']:.0f} Mbit/s" if one["rate_mbit"] else "loopback"
            if one["rate_mbit"] and not options.mbit:
                link = f"{factor} x balanced, {link}"
            print(f"| {job_set} | {link} | " + " | ".join(shown) + " |", flush=True)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
