"""Loops on a device, and what workers do with them. Imported by the workers only.

The loops of `tests.distributed` name no device: with a default device they train there as they are.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.identity import Record, differences, find, seed_everything
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from motet.events import Event, JobEnded, SyncEnded, TurnEnded
from motet.memory.offload import Offload
from motet.running import run
from motet.workers.devices import chosen_here

STEPS = 6


def join(backend: str | None = None) -> str:
    """Make the process group as Motet would, or with another backend; return the kind of device."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    choice = chosen_here()
    if choice.device is not None:
        torch.accelerator.set_device_index(choice.device)
    if not dist.is_initialized():
        dist.init_process_group(backend or choice.backend)
    torch.backends.cuda.matmul.allow_tf32 = False
    return "cpu" if device is None else device.type


@contextmanager
def deterministic() -> Iterator[None]:
    """Demand deterministic kernels where there are some."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def there(device: str, name: str) -> Any:
    """Run a loop with a default device."""
    torch.set_default_device(device)
    try:
        return (find(name) if name.startswith("jobs_") else globals()[name])()
    finally:
        torch.set_default_device(None)  # type: ignore[arg-type]


def companion() -> Record:
    """What runs beside every other loop: dropout, BatchNorm, Adam, and longer than most."""
    model = DDP(nn.Sequential(nn.Linear(7, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Dropout(0.3), nn.Linear(33, 2)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    record = Record()
    for _ in range(STEPS + 3):
        loss = model(torch.randn(9, 7)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(model, optimizer)


def mixed(dtype: torch.dtype) -> Record:
    """Autocast, with a GradScaler where the type needs one."""
    device = torch.get_default_device().type
    model = DDP(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**20, growth_interval=2, enabled=dtype == torch.float16)
    record = Record()
    for _ in range(2 * STEPS):
        x, y = torch.randn(12, 16), torch.randint(4, (12,))
        with torch.autocast(device, dtype=dtype):
            loss = F.cross_entropy(model(x).float(), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        record.look(loss, scaler.get_scale())
    return record.ended(model, optimizer)


def mixed_float16() -> Record:
    """Float16: the first scales are too large, so steps are skipped."""
    return mixed(torch.float16)


def mixed_bfloat16() -> Record:
    """Bfloat16, without a scaler's effect."""
    return mixed(torch.bfloat16)


def compiled() -> Record:
    """A compiled model in DDP."""
    model = DDP(torch.compile(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    record = Record()
    for _ in range(STEPS):
        loss = model(torch.randn(12, 16)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(model, optimizer)


def convolutions() -> Record:
    """Convolutions with BatchNorm, in channels-last."""
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten())
    model = DDP(net.to(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    record = Record()
    for _ in range(STEPS):
        loss = model(torch.randn(4, 3, 12, 12)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.buffers(model)
    return record.ended(model, optimizer)


def wide() -> Record:
    """Layers so large that DDP's buckets stand in the gradients' place while they are in flight (ADR 12)."""
    model = DDP(nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(4))), bucket_cap_mb=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    record = Record()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(torch.randn(16, 512)).square().mean()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(model, optimizer)


def large(width: int = 2048, steps: int = STEPS) -> float:
    """Several hundred megabytes of parameters, gradients and state."""
    model = DDP(nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(4))))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(torch.randn(256, width)).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


def heavy() -> float:
    """Turns that the host has put into the stream long before the device has done them."""
    model = DDP(nn.Linear(8192, 8192, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    x = torch.randn(8192, 8192)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
    return loss.item()


def too_large() -> None:
    """Run out of memory in the third turn, after the model was built."""
    model = DDP(nn.Linear(2048, 2048))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        loss = model(torch.randn(8, 2048)).sum()
        if step == 2:
            _, total = torch.accelerator.get_memory_info()
            torch.empty(2 * total, dtype=torch.uint8)
        loss.backward()
        optimizer.step()


def same_as_alone(names: dict[str, str], backend: str | None = None, **options: Any) -> list[str]:
    """Run loops alone and together on the device; return what differs, or that nothing was moved where it should be."""
    device = join(backend)
    expected = {}
    moved: list[int] = []
    put_away = Offload.put_away

    def counted(self: Offload, job: str, tensors: Iterable[Tensor]) -> int:
        moved.append(put_away(self, job, tensors))
        return moved[-1]

    with deterministic():
        for job, name in names.items():
            seed_everything()
            expected[job] = there(device, name)
            torch.set_default_dtype(torch.float32)  # loops may leave these changed
            torch.set_grad_enabled(True)
        seed_everything()
        with mock.patch.object(Offload, "put_away", counted):
            results = run({job: partial(there, device, name) for job, name in names.items()}, **options)
    errors = [f"{name} {job.status}: {job.error}" for name, job in results.jobs.items() if job.status != "finished"]
    if options.get("offload") == "idle" and device != "cpu" and not any(moved):
        errors.append("nothing was moved")
    return errors + [line for job in names for line in differences(results[job].result, expected[job], job)]


def more_than_fits(num_jobs: int = 6) -> dict[str, Any]:
    """Run jobs that do not fit on the device together, resident and with idle state moved; return what came of them.

    Each holds some 340 MB, of which idle ones keep 67 MB there (DDP's buckets); the process may have 1.5 GB.
    """
    device = join()
    _, total = torch.accelerator.get_memory_info()
    jobs = {f"job{number}": partial(there, device, "large") for number in range(num_jobs)}
    alone = []
    for _ in jobs:
        seed_everything()
        alone.append(there(device, "large"))
    found: dict[str, Any] = {"alone": alone}
    torch.cuda.set_per_process_memory_fraction(1.5e9 / total)
    try:
        for offload in ("idle", "nothing"):
            torch.accelerator.empty_cache()
            seed_everything()
            results = run(jobs, order="round-robin", offload=offload)
            found[offload] = [(job.status, job.result, job.error) for job in results.jobs.values()]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return found


class Watching:
    """Keeps what was allocated when jobs ended, and the times that were told."""

    changes_nothing_global = True

    def __init__(self) -> None:
        self.allocated: dict[str, int] = {}
        self.turns: list[tuple[float, float]] = []
        self.syncs: list[tuple[float, float, float]] = []

    def observe(self, event: Event) -> None:
        if isinstance(event, JobEnded):
            self.allocated[event.job] = _allocated()
        elif isinstance(event, TurnEnded):
            self.turns.append((event.begin, event.time))
        elif isinstance(event, SyncEnded):
            self.syncs.append((event.launched, event.completed, event.hidden_seconds))


def _allocated() -> int:
    gc.collect()
    return torch.accelerator.memory_allocated()


def memory_returns(failing: bool, backend: str | None = None) -> dict[str, Any]:
    """Run a large job beside a small, longer one; return statuses and bytes allocated before, between and after."""
    device = join(backend)
    first = "too_large" if failing else "large"
    jobs: dict[str, Callable[[], Any]] = {
        "first": partial(there, device, first),
        "second": partial(there, device, "jobs_plain:longer"),
    }
    run({"warm": partial(there, device, "large"), "too": jobs["second"]})  # libraries keep workspaces
    before, watching = _allocated(), Watching()
    results = run(jobs, observers=[watching])
    report = {name: (job.status, job.error, job.memory) for name, job in results.jobs.items()}
    del results
    return {"before": before, "ended": watching.allocated, "after": _allocated(), "jobs": report}


def device_times(backend: str | None = None) -> dict[str, Any]:
    """Run two heavy jobs; return the records' times and the time that the whole run took on the host."""
    device = join(backend)
    watching = Watching()
    jobs = {name: partial(there, device, "heavy") for name in "ab"}
    run(jobs)
    torch.accelerator.synchronize()
    begin = time.perf_counter()
    run(jobs, observers=[watching])
    torch.accelerator.synchronize()
    return {"begin": begin, "end": time.perf_counter(), "turns": watching.turns, "syncs": watching.syncs}
