"""Together in one process, or each job in a process of its own: which is faster, and what does either need?

    sudo python benchmarks/housing.py --sets twins complementary --repeats 3    # about 5 minutes
    python benchmarks/housing.py --sets "sixteen tiny" "one alone" --rate none --repeats 5

In alternation, each time in fresh processes, two workers, a core each: plain DDP one job after another (``plain``),
plain DDP side by side (``side``), Motet with its jobs together, and in processes. While all jobs train at once, their
steps are counted; each counts for what it takes alone. So the figure is how many seconds of plain DDP, one job after
another, are done in one second: the speed-up, without start-up and without the ends, at which fewer jobs are left.
All weights must be the same, bit for bit. Memory, in a run of its own, as looking takes time of the jobs': the largest
PSS of all processes of worker 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WAYS = ("plain", "side", "together", "process")
WARM = 4
UNITS = {"sixteen tiny": 150, "one alone": 60, "two tiny": 400}


def train(job_set: str, name: str, units: int) -> dict[str, Any]:
    """Train one job; return when each of its steps was over, and a fingerprint of its weights."""
    import torch.distributed as dist
    from methods import loop_of
    from sets import SETS
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from unequal_jobs import digest

    if not dist.is_initialized():
        dist.init_process_group("gloo")
    moments: list[float] = []
    models: list[nn.Module] = []

    def wrap(model: nn.Module) -> nn.Module:
        models.append(DistributedDataParallel(model))
        return models[0]

    loop_of(SETS[job_set][name], units, wrap=wrap, step_over=lambda: moments.append(time.perf_counter()))()
    return {"moments": moments, "weights": digest(models[0])}


def work(way: str, job_set: str, units: int, only: str | None) -> dict[str, Any]:
    """Do one worker's part in one way; return what each job told."""
    import torch
    from sets import SETS

    import motet
    from motet.jobs import Job

    torch.set_num_threads(1)
    jobs = SETS[job_set]
    if way in ("plain", "side"):
        return {name: train(job_set, name, units) for name in jobs if only in (None, name)}
    from functools import partial

    listed = [Job(name, partial(train, job_set, name, units), WARM + jobs[name].steps * units) for name in jobs]
    results = motet.run(listed, house=way)  # type: ignore[arg-type]
    failed = [result.error for result in results.values() if result.status != "finished"]
    assert not failed, failed[0]
    return {name: result.result for name, result in results.items()}


class Here:
    """Stands for shaped links where there are none: all workers on loopback."""

    def __init__(self, workers: int) -> None:
        self._workers = str(workers)

    def torchrun_env(self, worker: int) -> dict[str, str]:
        """Return what torchrun would set."""
        import socket

        if worker == 0:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = str(free.getsockname()[1])
        env = {"RANK": str(worker), "LOCAL_RANK": str(worker), "WORLD_SIZE": self._workers}
        env["LOCAL_WORLD_SIZE"] = self._workers
        return {**os.environ, **env, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.port, "GLOO_SOCKET_IFNAME": "lo"}

    def popen(self, worker: int, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process."""
        return subprocess.Popen(command, **options)


def measure(net: Any, way: str, job_set: str, units: int, workers: int, memory: bool) -> dict[str, Any]:
    """Start all processes of all workers; return what worker 0's jobs told, and its memory, where asked for."""
    from sets import SETS

    cores = sorted(os.sched_getaffinity(0))
    parts = list(SETS[job_set]) if way == "side" else [None]
    processes = []
    for number, only in enumerate(parts):
        env = [net.torchrun_env(worker) for worker in range(workers)]
        for worker in range(workers):
            pinned = ["taskset", "-c", str(cores[worker % len(cores)])]
            command = [*pinned, sys.executable, __file__, "--worker", way, "--sets", job_set, "--units", str(units)]
            more = {"OMP_NUM_THREADS": "1"}
            if way == "side":
                more["MASTER_PORT"] = str(int(env[worker]["MASTER_PORT"]) + number)
                command += ["--only", str(only)]
            options = {"env": {**env[worker], **more}, "stdout": subprocess.PIPE, "text": True}
            processes.append((worker, net.popen(worker, command, **options)))
    peak = 0.0
    while memory and any(process.poll() is None for _, process in processes):
        peak = max(peak, sum(pss_mb(process.pid) for worker, process in processes if worker == 0))
        time.sleep(0.5)
    report: dict[str, Any] = {}
    for worker, process in processes:
        lines = process.stdout.read().splitlines()
        assert lines, f"{way} of {job_set} failed on worker {worker}"
        if worker == 0:
            report.update(json.loads(lines[-1]))
    return {"jobs": report, "mb": peak}


def pss_mb(pid: int) -> float:
    """Return the proportional memory of a process and all that it has started."""
    total = 0.0
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            total += pss_mb(int(child))
    return total


def solo_seconds(message: dict[str, Any]) -> dict[str, float]:
    """Return what a step of each job takes alone: the mean, which has the pauses of an average step in it."""
    return {name: (job["moments"][-1] - job["moments"][0]) / (len(job["moments"]) - 1) for name, job in message.items()}


def speed(message: dict[str, Any], solo: dict[str, float]) -> float:
    """Return how many seconds of work alone were done in each second in which all jobs trained."""
    begin = max(job["moments"][0] for job in message.values())
    end = min(job["moments"][-1] for job in message.values())
    done = sum(
        solo[name] * sum(1 for moment in job["moments"] if begin < moment <= end) for name, job in message.items()
    )
    return done / (end - begin)


@contextlib.contextmanager
def links(rate: str | None, job_set: str, workers: int) -> Iterator[tuple[Any, str]]:
    """Give the two workers a link of that rate; "none": loopback; None: sync takes as long as computing on it."""
    if rate == "none":
        yield Here(workers), "loopback"
        return
    from costs import balanced_rate
    from gang import gang

    from motet.shaped_links import shaped_links

    if rate is None:
        with gang(workers) as each:
            rate = f"{round(balanced_rate(each, job_set, seconds=6.0) / 1e6)}mbit"
    with shaped_links(workers, rate=rate) as net:
        yield net, rate


def main() -> None:
    """Measure in alternation and print one line a set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rate", help="of the link, or none; without, balanced for each set")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--units", type=int)
    parser.add_argument("--workers", type=int, default=2, help="1, at --rate none: nothing to wait for, the bare cost")
    parser.add_argument("--memory", action="store_true", help="measure memory, which takes 1 %% of the time or more")
    parser.add_argument("--json", type=Path, help="a file for all that was measured")
    parser.add_argument("--worker", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.worker, options.sets[0], options.units, options.only)))
        sys.stdout.flush()
        os._exit(0)
    everything = []
    for job_set in options.sets:
        units = options.units or UNITS.get(job_set, 40)
        rows: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        with links(options.rate, job_set, options.workers) as (net, rate):
            for _ in range(options.repeats):
                for way in (way for way in WAYS if way == "plain" or way in options.ways):
                    rows[way].append(measure(net, way, job_set, units, options.workers, options.memory))
        weights = {json.dumps({n: j["weights"] for n, j in row["jobs"].items()}) for of in rows.values() for row in of}
        assert len(weights) == 1, f"the weights of {job_set} depend on the way"
        print(f"{job_set}, {rate}, {units} units, {options.repeats} repeats; the same weights each time")
        for way in (way for way in WAYS if rows[way]):
            solos = [solo_seconds(row["jobs"]) for row in rows["plain"]]
            pairs = zip(rows[way], solos, strict=True)
            ratios = [1.0] if way == "plain" else [speed(row["jobs"], solo) for row, solo in pairs]
            memory = f"{statistics.median(row['mb'] for row in rows[way]):6.0f} MB   " if options.memory else ""
            each = [statistics.fmean(solo_seconds(row["jobs"]).values()) for row in rows[way]]
            print(
                f"  {way:9} {statistics.median(ratios):5.3f} ({min(ratios):.3f} to {max(ratios):.3f})   "
                f"{memory}a step of a job, wall: {1000 * statistics.median(each):7.2f} ms",
                flush=True,
            )
        everything.append({"set": job_set, "rate": rate, "rows": rows})
        if options.json is not None:
            options.json.write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
