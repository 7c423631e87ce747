"""What do the small blocking collectives cost that Lightning's and Hugging Face's Trainer make at every step?

    sudo python benchmarks/framework_collectives.py                  # 300 Mbit/s, three repeats: about 12 minutes
    sudo python benchmarks/framework_collectives.py --rate 1gbit --repeats 1 --sets recommender

Each Trainer makes such collectives of its own: Lightning broadcasts before each batch whether it was told to stop, the
other gathers how many tokens a batch holds. A worker can do nothing else until they are back, and under Motet they
may stand behind another job's gradients on the link. Here a Trainer's transformer trains alone, beside a recommender
whose gradients fill the link, and all three together, on two workers; every call of ``torch.distributed`` that blocks
inside a job is timed, from the moment at which all jobs are warm until the first ends. Told is the share of that time
for which a worker is blocked in them (the mean of the workers), and of it what passes after the last worker has made
the call: that is what the link costs. The rest is waiting for the other worker to get there, which the next
synchronization of gradients would wait for otherwise. (`time.perf_counter` counts alike in all processes of a machine.)
What they cost in the end: how much longer the whole set takes, from when it is warm, than without them, in alternation.
Blocked time costs nothing where the link is the bottleneck and goes on carrying the other job's gradients meanwhile.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WARM_TURNS = 5
SETS: dict[str, tuple[str, ...]] = {
    "Lightning alone": ("lightning",),
    "Hugging Face alone": ("hugging-face",),
    "Lightning, recommender": ("lightning", "recommender"),
    "Hugging Face, recommender": ("hugging-face", "recommender"),
    "Lightning, Hugging Face, recommender": ("lightning", "hugging-face", "recommender"),
    "Hugging Face that looks for unused parameters, recommender": ("hugging-face-unused", "recommender"),
}
SILENT = ", silent"  # the same without these collectives
BLOCKING = (
    "broadcast",
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "reduce",
    "gather",
    "barrier",
    "broadcast_object_list",
    "all_gather_object",
)


class Stopwatch:
    """Times the blocking calls that jobs make into ``torch.distributed``; Motet's own are not among them."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, float]] = []
        self._inside = False

    def install(self) -> None:
        """Wrap the calls where everybody finds them. Before a framework is imported: some bind names early."""
        import torch.distributed as dist

        for name in BLOCKING:
            timed = self._timed(getattr(dist, name))
            setattr(dist, name, timed)
            setattr(dist.distributed_c10d, name, timed)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            of_motet = sys._getframe(1).f_globals.get("__name__", "").startswith("motet.")
            if self._inside or of_motet or kwargs.get("async_op"):
                return call(*args, **kwargs)
            self._inside, begin = True, time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self._inside = False
                self.calls.append((begin, time.perf_counter()))

        return timed


class Window:
    """An observer: from when all jobs are warm until the first ends."""

    changes_nothing_global = True

    def __init__(self, num_jobs: int) -> None:
        self.begin, self.end, self.last_end = float("inf"), float("inf"), 0.0
        self.turns = 0
        self._cold = num_jobs

    def observe(self, event: Any) -> None:
        """Take note of turns and ends."""
        from motet.events import JobEnded, TurnEnded

        if isinstance(event, TurnEnded):
            self._cold -= event.turn == WARM_TURNS
            if self._cold == 0 and self.begin == float("inf"):
                self.begin = event.time
            self.turns += self.begin < event.time < self.end
        elif isinstance(event, JobEnded):
            self.end = min(self.end, event.time)
            self.last_end = event.time


def work(names: tuple[str, ...], steps: int, silent: bool, order: str | None) -> dict[str, Any]:
    """Train on this worker; return when the window began and ended, its turns, and when each call did."""
    stopwatch = Stopwatch()
    stopwatch.install()
    import torch
    from jobs import frameworks
    from jobs.recommender import recommender

    import motet

    torch.set_num_threads(1)
    loops: dict[str, Callable[[], Any]] = {
        "lightning": functools.partial(frameworks.lightning, steps, silent),
        "hugging-face": functools.partial(frameworks.hugging_face, steps, silent),
        "hugging-face-unused": functools.partial(frameworks.hugging_face, steps, silent, find_unused=None),
        "recommender": functools.partial(recommender, steps),
    }
    window = Window(len(names))
    results = motet.run({name: loops[name] for name in names}, order=order, observers=[window])
    failed = [job.error for job in results.jobs.values() if job.status != "finished"]
    if failed:
        raise SystemExit(f"a job failed:\n{failed[0]}")
    whole = window.last_end - window.begin
    return {"begin": window.begin, "end": window.end, "whole": whole, "turns": window.turns, "calls": stopwatch.calls}


def joined(workers: list[dict[str, Any]], num_jobs: int) -> dict[str, float]:
    """Return what the workers told together, a round: ms, calls, ms blocked, and ms blocked by the link."""
    begin, end = workers[0]["begin"], workers[0]["end"]
    calls = list(zip(*(report["calls"] for report in workers), strict=True))  # all workers make the same calls
    calls = [call for call in calls if all(begin <= first and last <= end for first, last in call)]
    blocked = sum(last - first for call in calls for first, last in call) / len(workers)
    # A call of which the last worker there knows nothing more (a broadcast's source) may end before that.
    in_flight = sum(max(0.0, last - max(first for first, _ in call)) for call in calls for _, last in call)
    rounds = workers[0]["turns"] / num_jobs
    return {
        "ms": 1e3 * (end - begin) / rounds,
        "calls": len(calls) / rounds,
        "blocked": 1e3 * blocked / rounds,
        "link": 1e3 * in_flight / len(workers) / rounds,
        "whole": workers[0]["whole"],
    }


def measure(net: Any, job_set: str, steps: int, order: str) -> dict[str, float]:
    """Run a set on all workers, each on a core of its own; return the figures."""
    cores = sorted(os.sched_getaffinity(0))
    command = [sys.executable, __file__, "--worker", job_set, "--steps", str(steps), "--order", order]
    own = {"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            net.popen(
                worker,
                ["taskset", "-c", str(cores[worker % len(cores)]), *command],
                env={**net.torchrun_env(worker), **own},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder,
            )
            for worker in range(net.num_workers)
        ]
        outputs = [process.communicate() for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode:
            raise SystemExit(f"a worker failed:\n{errors[-4000:]}")
    return joined([json.loads(out.splitlines()[-1]) for out, _ in outputs], len(SETS[job_set.removesuffix(SILENT)]))


def main() -> None:
    """Measure all sets in alternation, and print a table; with ``--worker``, be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rate", default="300mbit")
    parser.add_argument("--order", choices=("round-robin", "determined"), default="round-robin")
    parser.add_argument("--sets", help="only those whose name contains this")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker is not None:
        silent = options.worker.endswith(SILENT)
        order = None if options.order == "determined" else options.order
        report = work(SETS[options.worker.removesuffix(SILENT)], options.steps, silent, order)
        print(json.dumps(report), flush=True)
        os._exit(0)
    from motet.shaped_links import shaped_links

    sets = [name for name in SETS if (options.sets or "") in name]
    names = [name + silent for name in sets for silent in ("", SILENT)]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with shaped_links(2, options.rate) as net:
        for repeat in range(options.repeats):
            for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
                rows[name].append(measure(net, name, options.steps, options.order))
                print(f"{repeat + 1}/{options.repeats} {name}: {rows[name][-1]}", file=sys.stderr, flush=True)
    print(
        f"Two workers, {options.rate}, {options.steps} steps, {options.order}; medians of {options.repeats} repeats.\n"
    )
    print("| jobs | ms a round | blocking calls | ms blocked | share of the time | by the link | longer by |")
    print("|---|---|---|---|---|---|---|")
    for name in sets:
        repeats = rows[name]
        ms, calls, blocked = (statistics.median(one[key] for one in repeats) for key in ("ms", "calls", "blocked"))
        shares = [statistics.median(100 * one[key] / one["ms"] for one in repeats) for key in ("blocked", "link")]
        silent = zip(repeats, rows[name + SILENT], strict=True)
        shares.append(statistics.median(100 * (one["whole"] / other["whole"] - 1) for one, other in silent))
        print(f"| {name} | {ms:.0f} | {calls:.1f} | {blocked:.1f} | " + " | ".join(f"{s:.1f} %" for s in shares) + " |")
    if options.json is not None:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}, "sets": rows}, indent=1))


if __name__ == "__main__":
    main()
