"""How much memory do the jobs of a set take together, in one process a worker and in one process each?

    python benchmarks/memory.py --sets "mixed four"     # about a minute a set

Peak of the proportional set size (PSS: pages that several processes share count in parts) of a worker's processes,
looked at twenty times a second. PSS is what the machine would have more of without these processes.
"""

from __future__ import annotations

import argparse
import json
import threading
from pathlib import Path

from gang import Gang, gang
from sets import SETS

UNITS = 3
EVERY_SECONDS = 0.05


def pss_mb(pid: int) -> float:
    """Return a process's present PSS; 0 if it has ended."""
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(row.split()[1]) / 1024 for row in rows if row.startswith("Pss:")), 0.0)


class Peak:
    """Looks at worker 0's memory from a thread while the block runs; ``mb`` is the most that it saw."""

    def __init__(self, workers: Gang) -> None:
        self.mb = 0.0
        self._workers = workers
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            self.mb = max(self.mb, sum(pss_mb(pid) for pid in self._workers.pids_of(0)))

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def measure(job_set: str, num_workers: int = 2) -> dict[str, float]:
    """Return a worker's peak megabytes by method, each in processes of its own."""
    peaks: dict[str, float] = {}
    names = list(SETS[job_set])
    for method in ("ddp", "motet", "side by side"):
        with gang(num_workers) as workers, Peak(workers) as peak:
            if method == "side by side":
                workers.measure_side_by_side(job_set, names, UNITS)
            else:
                workers.measure(method, job_set, UNITS)
        peaks[method] = peak.mb
    return peaks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="twins,mixed four,eight small")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    found = {name: measure(name, options.workers) for name in options.sets.split(",")}
    print("| set | one after another | side by side | Motet | Motet / side by side |\n|---|---|---|---|---|")
    for name, peaks in found.items():
        share = peaks["motet"] / peaks["side by side"]
        shown = " | ".join(f"{peaks[method]:.0f} MB" for method in ("ddp", "side by side", "motet"))
        print(f"| {name} | {shown} | {share:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
