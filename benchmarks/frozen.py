"""How much memory do jobs take that train adapters of one frozen base, and does holding it once cost time?

    python benchmarks/frozen.py                                   # all ways, one after the other: about five minutes
    python benchmarks/frozen.py --ways "together,together off" --repeats 3

Each way runs `examples/lora.py` (PEFT, GPT-2 from a configuration) with one worker. Memory is the proportional set size
(PSS: what several processes share counts in parts) of all processes of a run, looked at ten times a second: the peak,
and the median of the last third. Time is what a run says itself, without its processes' start.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from memory import pss_mb

SCRIPT = Path(__file__).parents[1] / "examples" / "lora.py"
EVERY_SECONDS = 0.1
WAYS = ("one job", "processes", "together", "together off", "process", "process off")


class Looked:
    """Looks at the memory of processes and of all that they have started, while the block runs."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.mb: list[float] = []
        self._processes = processes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(EVERY_SECONDS):
            total = 0.0
            for process in self._processes:
                try:
                    found = psutil.Process(process.pid)
                    pids = [process.pid, *(child.pid for child in found.children(recursive=True))]
                except psutil.NoSuchProcess:
                    continue
                total += sum(pss_mb(pid) for pid in pids)
            self.mb.append(total)

    def __enter__(self) -> Looked:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def commands(way: str, num_jobs: int, words: Sequence[str], folder: Path) -> list[list[str]]:
    """Return what is started at the same time."""
    alone = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", str(SCRIPT), *words]
    if way in ("one job", "processes"):
        return [[*alone, f"--save-to={folder}/{job}.pt"] for job in range(1 if way == "one job" else num_jobs)]
    house, _, off = way.partition(" ")
    each = [f"--each=--rank {2 + job} --save-to {folder}/{job}.pt {' '.join(words)}" for job in range(num_jobs)]
    options = [f"--house={house}", f"--share-frozen={off or 'on'}", f"--run-dir={folder}/run", "--quiet"]
    return [[sys.executable, "-m", "motet", "run", "--nproc-per-node=1", *options, str(SCRIPT), *each]]


def measure(way: str, num_jobs: int, words: Sequence[str]) -> dict[str, float]:
    """Run one way; return its figures."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with tempfile.TemporaryDirectory() as place:
        begin = time.monotonic()
        started = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            for command in commands(way, num_jobs, words, Path(place))
        ]
        with Looked(started) as looked:
            statuses = [process.wait() for process in started]
        seconds = time.monotonic() - begin
        assert not any(statuses), (way, statuses)
        results = Path(place, "run", "results.json")
        if results.exists():
            seconds = json.loads(results.read_text())["wall_seconds"]
    last = looked.mb[-len(looked.mb) // 3 : -2] or looked.mb
    return {"peak": max(looked.mb), "last": statistics.median(last), "seconds": seconds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args()
    words = [f"--{name}={getattr(options, name)}" for name in ("steps", "layers", "width")]
    ways = options.ways.split(",")
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way in ways:
            found[way].append(measure(way, options.jobs, words))
            print(way, {name: round(value, 1) for name, value in found[way][-1].items()}, flush=True)
    print("| way | peak | last third | seconds |\n|---|---|---|---|")
    for way, figures in found.items():
        peak, last, seconds = (
            [each[name] for each in figures] for name in ("peak", "last", "seconds")
        )  # fmt: skip
        spread = f" ({min(seconds):.1f}–{max(seconds):.1f})" if len(seconds) > 1 else ""
        print(f"| {way} | {max(peak):.0f} MB | {max(last):.0f} MB | {statistics.median(seconds):.1f}{spread} |")


if __name__ == "__main__":
    main()
