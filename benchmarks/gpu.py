"""What Motet does on a GPU: one process with K jobs against K processes, the cost of a turn, overlap, offload.

    python benchmarks/gpu.py                   # a table, and build/gpu.json, written anew with every line
    python benchmarks/gpu.py --only processes  # one part: processes, turn, alone, overlap, offload
    python benchmarks/gpu.py --limit 120       # start nothing more after so many seconds
    python benchmarks/gpu.py --rehearse        # on the CPU with tiny models: does it run? Its figures mean nothing

Needs one accelerator; says so and ends with status 0 where there is none. On one GPU gradients between two workers
go by gloo (NCCL refuses two workers on one device); with two GPUs or more the part `overlap` uses NCCL.
`benchmarks/gpu.sh` runs it with everything else that needs a device.

The part `processes` also lets the K processes share the device through CUDA's MPS, where its server starts. The part
`offload` varies how long a turn is (by the batch) and how slow the link to the host (each copy is made several times
over), and compares what is lost with what the model of `motet plan` says from the resident run and the rate that was
measured.

Every figure is a child process's: it trains a little, says that it is ready, waits for all others that are to run
beside it, and times steps after a warm-up, with the device synchronized before and after; a job's end is not in it.
Memory is what the device has in use more than before, contexts of processes included, looked at every 20 ms.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_child import device

MEASURED = ("small", "middle", "large")
NUM_JOBS = (4, 2, 8)
SECONDS_EACH = 2.0  # of measuring, for each figure
REPEATS = 3
BATCHES = (1, 4)  # times a size's own: how long a turn is, with the same state to move
SLOWNESSES = (1, 4)  # times the link's own
LIMIT_SECONDS = 400.0  # nothing more is begun later
PARTS = ("turn", "alone", "processes", "overlap", "offload")
Show = Callable[[dict[str, Any]], None]


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
        if not torch.accelerator.is_available():
            return 0
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
            command = [sys.executable, str(Path(__file__).with_name("gpu_child.py")), json.dumps(order)]
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


@contextlib.contextmanager
def mps_server() -> Iterator[dict[str, str] | None]:
    """Start CUDA's MPS; yield what processes that share the device through it need in their environment."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        command, whole = ["nvidia-cuda-mps-control"], {**os.environ, **environment}
        try:
            subprocess.run([*command, "-d"], env=whole, check=True, capture_output=True, timeout=10)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"MPS is not at hand: {error}", flush=True)
            yield None
            return
        try:
            yield environment
        finally:
            subprocess.run(command, input="quit\n", text=True, env=whole, check=False, capture_output=True)


def steps_for(size: str, known: dict[str, int]) -> int:
    """Return how many steps of one job alone take about `SECONDS_EACH`."""
    if size not in known:
        answer = run_children([{"method": "plain", "size": size, "steps": 20}])["answers"][0]
        known[size] = max(10, round(SECONDS_EACH / answer["step_seconds"]))
    return known[size]


def compare_processes(known: dict[str, int], show: Show, over: Callable[[], bool]) -> None:
    """K jobs in one process against K processes, by themselves and through MPS."""
    with mps_server() as mps:
        for num_jobs in NUM_JOBS:
            for size in MEASURED:
                if over():
                    return
                steps = max(10, 2 * steps_for(size, known) // num_jobs)
                order = {"size": size, "steps": steps}
                together = run_children([{**order, "method": "motet", "num_jobs": num_jobs}])
                rate = 1 / together["answers"][0]["step_seconds"]
                row = {"part": "processes", "what": f"{num_jobs} {size} jobs", "motet_turns_per_second": rate}
                row["motet_bytes"] = together["memory_bytes"]
                for how, environment in {"processes": {}, "mps": mps}.items():
                    if environment is None:
                        continue
                    apart = run_children([{**order, "method": "plain"}] * num_jobs, [environment] * num_jobs)
                    theirs = sum(1 / answer["step_seconds"] for answer in apart["answers"])
                    row |= {f"{how}_turns_per_second": theirs, f"{how}_bytes": apart["memory_bytes"]}
                    row[f"throughput_over_{how}"] = rate / theirs
                    row[f"memory_over_{how}"] = together["memory_bytes"] / max(1, apart["memory_bytes"])
                show(row)


def cost_of_a_turn(known: dict[str, int], show: Show, over: Callable[[], bool]) -> None:
    """A turn of sixteen small jobs together against a step of one under plain DDP, alternating in one process."""
    if over():
        return
    order = {"method": "alternate", "size": MEASURED[0], "steps": steps_for(MEASURED[0], known)}
    answer = run_children([{**order, "num_jobs": 16, "repeats": REPEATS}])["answers"][0]
    costs = [1e3 * (ours - plain) for ours, plain in zip(answer["together"], answer["plain"], strict=True)]
    plain = 1e3 * statistics.median(answer["plain"])
    what = f"cost of a turn, 16 {MEASURED[0]} jobs"
    show({"part": "turn", "what": what, "milliseconds": statistics.median(costs), "plain_ms": plain, "all": costs})


def one_job(known: dict[str, int], show: Show, over: Callable[[], bool]) -> None:
    """One job alone under Motet against plain DDP, alternating in one process."""
    for size in MEASURED:
        if over():
            return
        order = {"method": "alternate", "size": size, "steps": steps_for(size, known), "repeats": REPEATS}
        answer = run_children([order])["answers"][0]
        ratios = [plain / ours for ours, plain in zip(answer["together"], answer["plain"], strict=True)]
        row = {"part": "alone", "what": f"one {size} job", "of_plain_ddp": statistics.median(ratios), "all": ratios}
        show({**row, "plain_ms": 1e3 * statistics.median(answer["plain"])})


def overlap_seen(known: dict[str, int], show: Show, over: Callable[[], bool]) -> None:
    """Two workers, two jobs: how much of the gradients' way is beside another job's kernels, by the profiler."""
    if over():
        return
    with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared["GLOO_SOCKET_IFNAME"] = "lo"
        size = MEASURED[len(MEASURED) // 2]
        order = {"method": "motet", "size": size, "steps": 20, "num_jobs": 2, "trace": f"{folder}/trace.json"}
        environments = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        answer = run_children([order] * 2, environments)["answers"][0]
    backend = "nccl" if torch.accelerator.device_count() > 1 else "gloo, one device shared"
    show({"part": "overlap", "what": f"two workers ({backend}), two {size} jobs", **answer})


def offloaded(known: dict[str, int], show: Show, over: Callable[[], bool]) -> None:
    """Four jobs, all resident and with idle ones in the host's memory, for turns and links of several lengths."""
    if over():
        return
    rate = run_children([{"method": "link", "size": MEASURED[0], "steps": 1}])["answers"][0]["bytes_per_second"]
    for size in MEASURED[-2:]:
        for batch in BATCHES:
            if over():
                return
            steps = max(5, steps_for(size, known) // (4 * batch))
            order = {"method": "motet", "size": size, "steps": steps, "num_jobs": 4, "batch": batch}
            resident = run_children([order])
            for slowness in SLOWNESSES:
                if over():
                    return
                idle = run_children([{**order, "slowness": slowness}])
                show(offload_row(order, resident, idle, rate / slowness))


def offload_row(
    order: dict[str, Any], resident: dict[str, Any], idle: dict[str, Any], bytes_per_second: float
) -> dict[str, Any]:
    """Return what was lost by moving idle state over such a link, and what the model of ``motet plan`` says."""
    seconds = [found["answers"][0]["step_seconds"] for found in (resident, idle)]
    turn_seconds, state_bytes = seconds[0], idle["answers"][0]["state_bytes"]
    return {
        "part": "offload",
        "what": f"{order['num_jobs']} {order['size']} jobs, {order['batch']} x batch",
        "turn_ms": 1e3 * turn_seconds,
        "state_bytes": state_bytes,
        "host_link_bytes_per_second": bytes_per_second,
        "lost_fraction": seconds[1] / seconds[0] - 1,
        "predicted_fraction": predicted_loss(turn_seconds, state_bytes, bytes_per_second, order["num_jobs"]),
        "resident_bytes": resident["memory_bytes"],
        "idle_bytes": idle["memory_bytes"],
    }


def predicted_loss(turn_seconds: float, state_bytes: float, bytes_per_second: float, num_jobs: int) -> float:
    """Return which part of the time with all resident is lost, by the model of ``motet plan --offload idle``."""
    from motet.schedule.costs import Cost
    from motet.schedule.offload_model import OffloadModel
    from motet.schedule.order import round_robin
    from motet.schedule.replay import Assumptions, replay

    costs = {f"job{number}": Cost(turn_seconds, 0.0) for number in range(num_jobs)}
    order, turns = round_robin(list(costs)), dict.fromkeys(costs, 100)
    moving = Assumptions(num_buckets=1, offload=OffloadModel(dict.fromkeys(costs, state_bytes), bytes_per_second))
    resident = replay(order, costs, turns, num_workers=1).total_seconds
    return replay(order, costs, turns, num_workers=1, assumptions=moving).total_seconds / resident - 1


def print_row(row: dict[str, Any]) -> None:
    """Print a line of the table."""
    cells = []
    for name, value in row.items():
        if name in ("part", "what", "all"):
            continue
        shown = f"{value / 1e9:.2f} GB" if name.endswith("_bytes") else f"{value:.3g}"
        cells.append(f"{name.removesuffix('_bytes').replace('_', ' ')} {shown}")
    print(f"{row['part']:<10} {row['what']:<44} {'   '.join(cells)}", flush=True)


def name_of_card() -> str:
    """Return what to write beside the figures."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else str(device())


def rehearse() -> None:
    """Let everything be as small as may be, on the CPU, here and in the children."""
    global MEASURED, NUM_JOBS, BATCHES, SLOWNESSES, SECONDS_EACH, REPEATS
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    MEASURED, NUM_JOBS, BATCHES, SLOWNESSES, SECONDS_EACH, REPEATS = ("tiny",), (2,), (1,), (1,), 0.02, 1


def main() -> None:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--json", default="build/gpu.json", metavar="FILE")
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, metavar="SECONDS")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU with tiny models; no figure means anything")
    options = parser.parse_args()
    if options.rehearse:
        print("A rehearsal on the CPU with tiny models: no figure below means anything.")
        rehearse()
    elif not torch.accelerator.is_available():
        print("There is no accelerator here: nothing was measured.")
        return
    begin = time.monotonic()
    known: dict[str, int] = {}
    card = "none: a rehearsal" if options.rehearse else name_of_card()
    facts: dict[str, Any] = {"card": card, "rehearsal": options.rehearse, "torch": torch.__version__}
    facts |= {"python": platform.python_version(), "rows": []}
    file = Path(options.json)
    file.parent.mkdir(parents=True, exist_ok=True)

    def show(row: dict[str, Any]) -> None:
        facts["rows"].append(row)
        file.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")  # what there is, if it is cut off
        print_row(row)

    def over() -> bool:
        return time.monotonic() - begin > options.limit

    parts = {
        "turn": cost_of_a_turn,
        "alone": one_job,
        "processes": compare_processes,
        "overlap": overlap_seen,
        "offload": offloaded,
    }
    for name, part in parts.items():
        if options.only is None or name in options.only:
            part(known, show, over)
    if over():
        print(f"Stopped after {options.limit:.0f} s: what is missing above can be had with --only.")
    print(f"{card}, torch {torch.__version__}; {options.json}")


if __name__ == "__main__":
    main()
