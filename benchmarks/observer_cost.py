"""What does looking on cost? Live rows, logged values and the trace, as ``motet run`` has them: microseconds a turn.

    python benchmarks/observer_cost.py       # half a minute, one core

Made-up events of jobs whose turns take 5 ms each go to the real observers, which write real
files (below the temporary directory) and draw for a terminal of 120 columns; each turn logs a value. Told is the median
of the repeats, and its share of the run's time. `TraceRecorder` is also given so many turns that it thins them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from motet.events import Event, JobStarted, MetricsLogged, Observer, RunEnded, RunStarted, SyncEnded, TurnEnded
from motet.observe import MetricsWriter, Progress, TraceRecorder

TURN_SECONDS = 0.005


def events(num_turns: int, num_jobs: int) -> Iterator[Event]:
    """Yield what worker 0 observes of a run in which jobs take turns."""
    names = tuple(f"job{number}" for number in range(num_jobs))
    yield RunStarted(0.0, 1.8e9, 0, 2, names, names)
    for name in names:
        yield JobStarted(0.0, name, num_turns // num_jobs)
    for number in range(num_turns):
        name, turn, begin = names[number % num_jobs], number // num_jobs + 1, number * TURN_SECONDS
        if turn > 1:
            sent = begin - TURN_SECONDS * (num_jobs - 0.8)
            yield SyncEnded(begin + 1e-4, name, turn - 1, sent, begin, begin, 0.8 * TURN_SECONDS, 10_000_000, 2)
        yield MetricsLogged(begin + 4e-3, name, turn, {"loss": 1.0 / turn})
        yield TurnEnded(begin + 4.5e-3, name, turn, begin, True)
    yield RunEnded(num_turns * TURN_SECONDS, num_turns * TURN_SECONDS)


def seconds_a_turn(make: Callable[[Path], Observer], num_turns: int, num_jobs: int) -> float:
    """Return what an observer takes, over the whole run."""
    given = list(events(num_turns, num_jobs))
    with tempfile.TemporaryDirectory() as folder:
        observe = make(Path(folder)).observe
        begin = time.perf_counter()
        for event in given:
            observe(event)
        return (time.perf_counter() - begin) / num_turns


def main() -> None:
    """Measure in alternation, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--turns", type=int, default=20_000)
    parser.add_argument("--jobs", type=int, default=4)
    options = parser.parse_args()
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        observers: dict[str, Callable[[Path], Observer]] = {
            "live rows": lambda folder: Progress(nowhere, live=True, width=120),
            "logged values": MetricsWriter,
            "trace": TraceRecorder,
            "trace, thinned": lambda folder: TraceRecorder(folder, budget_bytes=20 * options.turns),
        }
        found: dict[str, list[float]] = {name: [] for name in observers}
        for _ in range(options.repeats):
            for name, make in observers.items():
                found[name].append(1e6 * seconds_a_turn(make, options.turns, options.jobs))
    print(f"{options.turns} turns of {1e3 * TURN_SECONDS:.0f} ms, {options.jobs} jobs; medians of {options.repeats}\n")
    print("| observer | µs a turn | share of the run's time |")
    print("|---|---|---|")
    for name, values in found.items():
        print(f"| {name} | {statistics.median(values):.1f} | {statistics.median(values) / TURN_SECONDS / 1e4:.2f} % |")


if __name__ == "__main__":
    main()
