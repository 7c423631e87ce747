"""A child of `gpu.py`: trains what it was told to, and prints how long that took. Not to be started by hand."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, dict[str, int]] = {
    "small": {"width": 256, "layers": 2, "length": 64, "batch": 8},
    "middle": {"width": 512, "layers": 6, "length": 128, "batch": 8},
    "large": {"width": 1280, "layers": 12, "length": 256, "batch": 8},
    "tiny": {"width": 64, "layers": 1, "length": 8, "batch": 2},  # for --rehearse
}
WARM_UP = 5


def device() -> torch.device:
    """Return the accelerator; the CPU in a rehearsal."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def synchronize() -> None:
    """Wait until the device has done everything."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


class Clock:
    """Counts the steps of ``num_jobs`` jobs from the moment at which all have warmed up until one of them has ended.

    What comes before and after (building models, a job's end) is not a step's. The device is synchronized at both.
    """

    def __init__(self, num_jobs: int) -> None:
        self._num_cold, self._begin, self.seconds, self.num_steps = num_jobs, 0.0, 0.0, 0

    def step(self, number: int) -> None:
        """Note that a job begins its step ``number``."""
        if number == WARM_UP:
            self._num_cold -= 1
            if self._num_cold == 0:
                synchronize()
                self._begin = time.perf_counter()
        if self._num_cold == 0 and not self.seconds:
            self.num_steps += 1

    def over(self) -> None:
        """Note that a job has taken all its steps."""
        if not self.seconds:
            synchronize()
            self.seconds = time.perf_counter() - self._begin

    @property
    def step_seconds(self) -> float:
        """Seconds a step of one job takes, while all take theirs."""
        return self.seconds / self.num_steps


def train(size: str, steps: int, seed: int, clock: Clock | None = None, batch: int = 1) -> None:
    """Train a transformer on noise: the loop that any script would have."""
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    clock = clock or Clock(1)
    shape, place = SIZES[size], device()
    torch.manual_seed(seed)
    layer = nn.TransformerEncoderLayer(
        shape["width"], 8, 4 * shape["width"], dropout=0.0, batch_first=True, norm_first=True
    )
    model = DistributedDataParallel(nn.TransformerEncoder(layer, shape["layers"], enable_nested_tensor=False).to(place))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    x = torch.randn(batch * shape["batch"], shape["length"], shape["width"], device=place)
    for number in range(WARM_UP + steps):
        clock.step(number)
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            loss = model(x).float().square().mean()
        loss.backward()
        optimizer.step()
    clock.over()


def join() -> None:
    """Make a process group of one, or of those in the environment, as a script does."""
    import torch.distributed as dist

    from motet.workers.devices import chosen_here

    choice = chosen_here()
    if choice.device is not None:
        torch.accelerator.set_device_index(choice.device)
    if "RANK" in os.environ:
        dist.init_process_group(choice.backend)
    else:
        dist.init_process_group(choice.backend, store=dist.HashStore(), rank=0, world_size=1)


def child(order: dict[str, Any]) -> dict[str, Any]:
    """Do what the parent asked for; return seconds."""
    size, steps, num_jobs = order["size"], order["steps"], order.get("num_jobs", 1)
    join()
    train(size, 1, 0)
    synchronize()
    print("ready", flush=True)
    sys.stdin.readline()
    if order["method"] == "link":
        return {"bytes_per_second": link_rate()}
    if order["method"] == "plain":
        return {"step_seconds": plain_step_seconds(size, steps)}
    if order["method"] == "alternate":
        return alternate(size, steps, num_jobs, order["repeats"])
    return motet_child(order, size, steps, num_jobs)


def plain_step_seconds(size: str, steps: int) -> float:
    """Train one job under plain DDP."""
    clock = Clock(1)
    train(size, steps, 0, clock)
    return clock.step_seconds


def alternate(size: str, steps: int, num_jobs: int, repeats: int) -> dict[str, Any]:
    """Train one job under plain DDP and ``num_jobs`` under Motet, in turn, in this one process."""
    plain, together = [], []
    for _ in range(repeats):
        plain.append(plain_step_seconds(size, steps))
        together.append(motet_child({}, size, max(5, steps // num_jobs), num_jobs)["step_seconds"])
    return {"plain": plain, "together": together}


def link_rate(num_bytes: int = 2**27, times: int = 8) -> float:
    """Return the bytes per second between the device and pinned memory, there and back one after the other."""
    from motet.memory.offload import HostTransfers, StreamTransfers

    transfers = HostTransfers() if device().type == "cpu" else StreamTransfers(current_device())
    there, here = torch.zeros(num_bytes, dtype=torch.uint8, device=device()), transfers.place(num_bytes)
    seconds = []
    for _ in range(3):
        synchronize()
        begin = time.perf_counter()
        with transfers.aside():
            for _ in range(times):
                transfers.copy(here, there)
                transfers.copy(there, here)
        synchronize()
        seconds.append(time.perf_counter() - begin)
    return 2 * times * num_bytes / statistics.median(seconds)


def current_device() -> torch.device:
    """Return the accelerator that this worker uses, with its number."""
    return torch.device(device().type, torch.accelerator.current_device_index())


def slower_transfers(slowness: int) -> Any:
    """Return the way of `--offload idle` over a link that is so many times slower: each copy is made as often."""
    from motet.memory.offload import HostTransfers, StreamTransfers

    class Slower(StreamTransfers):
        def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
            for _ in range(slowness):
                super().copy(target, source)

    return HostTransfers() if device().type == "cpu" else Slower(current_device())


def motet_child(order: dict[str, Any], size: str, steps: int, num_jobs: int) -> dict[str, Any]:
    """Run the jobs together; with a trace, tell how long communication ran beside kernels."""
    import motet

    clock = Clock(num_jobs)
    batch, slowness = order.get("batch", 1), order.get("slowness", 0)
    jobs = {f"job{seed}": partial(train, size, steps, seed, clock, batch) for seed in range(num_jobs)}
    options = {"order": "round-robin", "offload": slower_transfers(slowness) if slowness else "nothing"}
    if "trace" not in order or os.environ.get("RANK", "0") != "0":
        results = motet.run(jobs, **options)
        found: dict[str, Any] = {}
    else:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        with profile(activities=activities) as profiler:
            results = motet.run(jobs, **options)
            synchronize()
        profiler.export_chrome_trace(order["trace"])
        found = overlap(json.loads(Path(order["trace"]).read_text(encoding="utf-8"))["traceEvents"])
    if failed := [job.error for job in results.jobs.values() if job.status != "finished"]:
        raise RuntimeError(f"{len(failed)} of {num_jobs} jobs failed, so nothing was measured; the first:\n{failed[0]}")
    memory = results["job0"].memory or {}
    sync = sum(job.sync_seconds for job in results.jobs.values())
    hidden = sum(job.hidden_seconds for job in results.jobs.values())
    state = {"state_bytes": memory.get("offload_bytes", 0)}
    return {"step_seconds": clock.step_seconds, "sync_seconds": sync, "hidden_seconds": hidden, **state, **found}


def overlap(events: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Return for how many seconds gradients were in flight on the device, and for how many of them kernels ran as well.

    In flight: NCCL's kernels, and copies between device and host (gloo's way).
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
    return {"in_flight_seconds": sum(end - begin for begin, end in travel), "beside_kernels_seconds": both}


def union(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the spans, merged where they touch, in order."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


if __name__ == "__main__":
    print(json.dumps(child(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)  # process groups of one have threads that would hold it up
