"""What Motet does on a GPU: one process with K jobs against K processes, the cost of a turn, overlap, offload.

    python benchmarks/gpu.py                   # under eight minutes; a table, and build/gpu.json
    python benchmarks/gpu.py --only processes  # one part: processes, turn, alone, overlap, offload

Needs one accelerator; says so and ends with status 0 where there is none. On one GPU gradients between two workers
travel by gloo (NCCL refuses two workers on one device); with two GPUs or more the part `overlap` uses NCCL.

Every figure is a child process's: it builds its jobs, says that it is ready, waits for all others that are to run
beside it, and times whole loops after a warm-up, with the device synchronized before and after. Memory is what the
device has in use more than before, contexts of processes included, looked at every 20 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, dict[str, int]] = {
    "small": {"width": 256, "layers": 2, "length": 64, "batch": 8},
    "middle": {"width": 512, "layers": 6, "length": 128, "batch": 8},
    "large": {"width": 1280, "layers": 12, "length": 256, "batch": 8},
}
NUM_JOBS = (2, 4, 8)
SECONDS_EACH = 2.0  # of measuring, for each figure
WARM_UP = 5
LIMIT_SECONDS = 400.0  # no child is started later
PARTS = ("processes", "turn", "alone", "overlap", "offload")


# --- in a child -------------------------------------------------------------------------------------------------


def train(size: str, steps: int, seed: int, begun: Callable[[], None] = lambda: None) -> None:
    """Train a transformer on noise: the loop that any script would have."""
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    shape = SIZES[size]
    device = torch.accelerator.current_accelerator()
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(
        shape["width"], 8, 4 * shape["width"], dropout=0.0, batch_first=True, norm_first=True
    )
    model = DistributedDataParallel(
        nn.TransformerEncoder(layer, shape["layers"], enable_nested_tensor=False).to(device)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randn(shape["batch"], shape["length"], shape["width"], device=device)
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            begun()
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            loss = model(x).float().square().mean()
        loss.backward()
        optimizer.step()


class Clock:
    """When the last of ``num_jobs`` jobs had warmed up, and when everything was over."""

    def __init__(self, num_jobs: int) -> None:
        self._left, self.begin = num_jobs, 0.0

    def begun(self) -> None:
        self._left -= 1
        if self._left == 0:
            torch.accelerator.synchronize()
            self.begin = time.perf_counter()

    def seconds(self) -> float:
        torch.accelerator.synchronize()
        return time.perf_counter() - self.begin


def join() -> None:
    """Make a process group of one, or of those in the environment, as a script does."""
    import torch.distributed as dist

    from motet.devices import chosen_here

    choice = chosen_here()
    torch.accelerator.set_device_index(choice.device or 0)
    if "RANK" in os.environ:
        dist.init_process_group(choice.backend)
    else:
        dist.init_process_group(choice.backend, store=dist.HashStore(), rank=0, world_size=1)


def child(order: dict[str, Any]) -> dict[str, Any]:
    """Do what the parent asked for; return seconds."""
    size, steps, num_jobs = order["size"], order["steps"], order.get("num_jobs", 1)
    join()
    train(size, 1, 0)
    torch.accelerator.synchronize()
    print("ready", flush=True)
    sys.stdin.readline()
    if order["method"] == "plain":
        clock = Clock(1)
        train(size, steps, 0, clock.begun)
        return {"seconds": clock.seconds()}
    if order["method"] == "one after another":
        total = 0.0
        for seed in range(num_jobs):
            clock = Clock(1)
            train(size, steps, seed, clock.begun)
            total += clock.seconds()
        return {"seconds": total}
    return motet_child(order, size, steps, num_jobs)


def motet_child(order: dict[str, Any], size: str, steps: int, num_jobs: int) -> dict[str, Any]:
    """Run the jobs together; with a trace, tell how long communication ran beside kernels."""
    import motet

    clock = Clock(num_jobs)
    jobs = {f"job{seed}": partial(train, size, steps, seed, clock.begun) for seed in range(num_jobs)}
    options = {"order": "round-robin", "offload": order.get("offload", "nothing")}
    if "trace" not in order or os.environ.get("RANK", "0") != "0":
        results = motet.run(jobs, **options)
        seconds = clock.seconds()
        found: dict[str, Any] = {}
    else:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            results = motet.run(jobs, **options)
            seconds = clock.seconds()
        profiler.export_chrome_trace(order["trace"])
        found = overlap(json.loads(Path(order["trace"]).read_text(encoding="utf-8"))["traceEvents"])
    failed = [job.error for job in results.jobs.values() if job.status != "finished"]
    sync = sum(job.sync_seconds for job in results.jobs.values())
    hidden = sum(job.hidden_seconds for job in results.jobs.values())
    return {"seconds": seconds, "failed": failed, "sync_seconds": sync, "hidden_seconds": hidden, **found}


def overlap(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return for how many seconds gradients travelled on the device, and for how many of them kernels ran as well.

    Travelling: NCCL's kernels, and copies between device and host (gloo's way).
    """
    travel: list[tuple[float, float]] = []
    compute: list[tuple[float, float]] = []
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy") and "dur" in event:
            span = (event["ts"] / 1e6, (event["ts"] + event["dur"]) / 1e6)
            moves = "nccl" in event["name"].lower() or "HtoD" in event["name"] or "DtoH" in event["name"]
            (travel if moves else compute if event["cat"] == "kernel" else []).append(span)
    travel, compute = union(travel), union(compute)
    both, i = 0.0, 0
    for begin, end in travel:
        while i < len(compute) and compute[i][1] <= begin:
            i += 1
        j = i
        while j < len(compute) and compute[j][0] < end:
            both += min(end, compute[j][1]) - max(begin, compute[j][0])
            j += 1
    return {"travel_seconds": sum(end - begin for begin, end in travel), "beside_kernels_seconds": both}


def union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the spans, merged where they touch, in order."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


# --- in the parent ----------------------------------------------------------------------------------------------


class MemoryWatch:
    """The most that the device had in use beyond what it had before, in bytes."""

    def __init__(self) -> None:
        self._before = self._used()
        self.peak_bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _used(self) -> int:
        free, total = torch.accelerator.get_memory_info()
        return total - free

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.peak_bytes = max(self.peak_bytes, self._used() - self._before)


def run_children(orders: Sequence[dict[str, Any]], environments: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    """Run children side by side, begun together; return their answers, and the memory that all took."""
    processes = []
    with MemoryWatch() as memory:
        for number, order in enumerate(orders):
            environment = {**os.environ, **(environments[number] if environments else {})}
            command = [sys.executable, __file__, "--child", json.dumps(order)]
            processes.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
            )
        try:
            for process in processes:
                wait_line(process, "ready")
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            answers = [json.loads(wait_line(process, "{")) for process in processes]
        finally:
            for process in processes:
                process.kill() if sys.exc_info()[0] is not None else None
                process.wait()
    return {"answers": answers, "memory_bytes": memory.peak_bytes}


def wait_line(process: subprocess.Popen[str], start: str) -> str:
    """Return the next line that begins so; what else a child prints is of no interest."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(start):
            return line
    raise RuntimeError(f"a child ended (status {process.wait()}) before it said {start!r}; see its error above")


def steps_for(size: str, known: dict[str, int]) -> int:
    """Return how many steps of one job alone take about `SECONDS_EACH`."""
    if size not in known:
        answer = run_children([{"method": "plain", "size": size, "steps": 30}])["answers"][0]
        known[size] = max(10, round(SECONDS_EACH / (answer["seconds"] / 30)))
    return known[size]


def compare_processes(known: dict[str, int], rows: list[dict[str, Any]], over: Callable[[], bool]) -> None:
    """K jobs in one process against K processes."""
    for size in SIZES:
        for num_jobs in NUM_JOBS:
            if over():
                return
            steps = max(10, 2 * steps_for(size, known) // num_jobs)
            order = {"size": size, "steps": steps}
            together = run_children([{**order, "method": "motet", "num_jobs": num_jobs}])
            apart = run_children([{**order, "method": "plain"}] * num_jobs)
            one, many = together["answers"][0]["seconds"], max(a["seconds"] for a in apart["answers"])
            rows.append(
                {
                    "part": "processes",
                    "what": f"{num_jobs} {size} jobs",
                    "motet_turns_per_second": num_jobs * steps / one,
                    "processes_turns_per_second": num_jobs * steps / many,
                    "throughput_ratio": many / one,
                    "motet_bytes": together["memory_bytes"],
                    "processes_bytes": apart["memory_bytes"],
                    "memory_ratio": together["memory_bytes"] / max(1, apart["memory_bytes"]),
                }
            )
            show(rows[-1])


def cost_of_a_turn(known: dict[str, int], rows: list[dict[str, Any]], over: Callable[[], bool]) -> None:
    """Sixteen small jobs together against one after another, in the same order of magnitude of steps."""
    steps = max(20, steps_for("small", known) // 8)
    order = {"size": "small", "steps": steps, "num_jobs": 16}
    costs = []
    for _ in range(3):
        if over():
            break
        together = run_children([{**order, "method": "motet"}])["answers"][0]["seconds"]
        apart = run_children([{**order, "method": "one after another"}])["answers"][0]["seconds"]
        costs.append((together - apart) / (16 * steps) * 1e3)
    if costs:
        rows.append({"part": "turn", "what": "cost of a turn", "milliseconds": statistics.median(costs), "all": costs})
        show(rows[-1])


def one_job(known: dict[str, int], rows: list[dict[str, Any]], over: Callable[[], bool]) -> None:
    """One job alone under Motet against plain DDP."""
    for size in SIZES:
        ratios = []
        for _ in range(3):
            if over():
                return
            order = {"size": size, "steps": steps_for(size, known)}
            alone = run_children([{**order, "method": "motet", "num_jobs": 1}])["answers"][0]["seconds"]
            plain = run_children([{**order, "method": "plain"}])["answers"][0]["seconds"]
            ratios.append(plain / alone)
        rows.append({"part": "alone", "what": f"one {size} job", "of_plain_ddp": statistics.median(ratios)})
        show(rows[-1])


def overlap_seen(known: dict[str, int], rows: list[dict[str, Any]], over: Callable[[], bool]) -> None:
    """Two workers, two jobs: how much of the gradients' way is beside another job's kernels, by the profiler."""
    if over():
        return
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared["GLOO_SOCKET_IFNAME"] = "lo"
        order = {"method": "motet", "size": "middle", "steps": 20, "num_jobs": 2, "trace": f"{folder}/trace.json"}
        environments = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        answer = run_children([order] * 2, environments)["answers"][0]
    backend = "nccl" if torch.accelerator.device_count() > 1 else "gloo, one device shared"
    rows.append({"part": "overlap", "what": f"two workers ({backend}), two middle jobs", **answer})
    show(rows[-1])


def offloaded(known: dict[str, int], rows: list[dict[str, Any]], over: Callable[[], bool]) -> None:
    """Four jobs, all resident and with idle ones in the host's memory."""
    for size in ("middle", "large"):
        if over():
            return
        order = {"method": "motet", "size": size, "steps": steps_for(size, known) // 4, "num_jobs": 4}
        resident = run_children([order])
        idle = run_children([{**order, "offload": "idle"}])
        seconds = [found["answers"][0]["seconds"] for found in (resident, idle)]
        rows.append(
            {
                "part": "offload",
                "what": f"four {size} jobs",
                "turn_ms": seconds[0] / (4 * order["steps"]) * 1e3,
                "time_ratio": seconds[1] / seconds[0],
                "resident_bytes": resident["memory_bytes"],
                "idle_bytes": idle["memory_bytes"],
            }
        )
        show(rows[-1])


def show(row: dict[str, Any]) -> None:
    """Print a line of the table."""
    cells = []
    for name, value in row.items():
        if name in ("part", "what", "all", "failed"):
            continue
        shown = f"{value / 1e9:.2f} GB" if name.endswith("_bytes") else f"{value:.3g}"
        cells.append(f"{name.removesuffix('_bytes').replace('_', ' ')} {shown}")
    print(f"{row['part']:<10} {row['what']:<44} {'   '.join(cells)}", flush=True)


def main() -> None:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--json", default="build/gpu.json", metavar="FILE")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        answer = child(json.loads(options.child))
        print(json.dumps(answer), flush=True)
        os._exit(0)  # process groups of one have threads that would hold it up
    if not torch.accelerator.is_available():
        print("There is no accelerator here: nothing was measured.")
        return
    begin = time.monotonic()
    known: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    parts = {
        "overlap": overlap_seen,
        "turn": cost_of_a_turn,
        "processes": compare_processes,
        "offload": offloaded,
        "alone": one_job,
    }
    for name, part in parts.items():
        if options.only is None or name in options.only:
            part(known, rows, lambda: time.monotonic() - begin > LIMIT_SECONDS)
    if time.monotonic() - begin > LIMIT_SECONDS:
        print(f"Stopped after {LIMIT_SECONDS:.0f} s: what is missing above can be had with --only.")
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else str(torch.accelerator.current_accelerator())
    facts = {"card": card, "torch": torch.__version__, "python": platform.python_version(), "rows": rows}
    Path(options.json).parent.mkdir(parents=True, exist_ok=True)
    Path(options.json).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"{card}, torch {torch.__version__}; {options.json}")


if __name__ == "__main__":
    main()
