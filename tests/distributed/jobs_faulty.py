"""Loops for whole commands: each saves checkpoints and can go wrong at a step, in one of many ways."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import motet
from motet.checkpoints import DataPosition

THIS_WORKER = {"raise-alone", "short", "unsynchronized", "other-shape", "stall", "kill", "oom-alone"}


def loop(
    what: str = "",
    at: int = 10,
    steps: int = 30,
    seed: int = 1,
    every: int | None = 5,
    pause: float = 0.0,
    worker: int = 1,
    tell: str | None = None,
    width: int = 16,
    once: str | None = None,
    after: str | None = None,
) -> dict[str, Any]:
    """Train; at step ``at`` let ``what`` happen (on ``worker``), and write ``tell`` when three steps are done.

    With ``after`` it happens at the first step that finds such a path, however many that takes.
    """
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # in a process of its own
    torch.manual_seed(seed + dist.get_rank())
    if what == "wider-alone" and dist.get_rank() == worker:
        width += 1
    layers = [nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 2)]
    model = DistributedDataParallel(nn.Sequential(*layers))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    job = motet.current_job()
    start = 0 if every is None else job.checkpoint(model=model, optimizer=optimizer, every_turns=every)
    print("begins after", int(start))
    for step in range(start, steps):
        if pause:
            time.sleep(pause)
        due = step == at if after is None else Path(after).exists()
        here = due and (what not in THIS_WORKER or dist.get_rank() == worker)
        if here and once is not None:
            here = not Path(once).exists()
            Path(once).touch()
        if here and what == "short":
            break
        if here:
            _happen(what, model)
        optimizer.zero_grad()
        loss = model(torch.randn(4, 8)).square().mean()
        if here and what == "unsynchronized":
            with model.no_sync():
                model(torch.randn(4, 8)).square().mean().backward()
            continue
        loss.backward()
        optimizer.step()
        job.log(loss=loss.item())
        job.save_point()
        if tell is not None and step == start + 2 and dist.get_rank() == 0:
            Path(tell).write_text("ready")
    return {"weights": digest(model.module), "random": float(torch.rand(1))}


def loop_of_a_process(**arguments: Any) -> dict[str, Any]:
    """Train as `loop` does, in a process of its own: there is no process group yet."""
    dist.init_process_group("gloo")
    return loop(**arguments)


def loading(
    seed: int = 1,
    epochs: int = 4,
    every: int = 10,
    pause: float = 0.0,
    context: str | None = None,
    workers: int = 1,
    samples: int = 640,
) -> dict[str, Any]:
    """Train on what DataLoader workers load; write down how many steps are done."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # in a process of its own
    torch.manual_seed(seed)
    data = TensorDataset(torch.randn(samples, 16), torch.randn(samples, 1))
    sampler: Any = DistributedSampler(data, seed=seed)
    loader = DataLoader(data, 8, sampler=sampler, num_workers=workers, multiprocessing_context=context)
    layers = [nn.Linear(16, 64), nn.Dropout(0.1), nn.Linear(64, 1)]
    model = DistributedDataParallel(nn.Sequential(*layers))
    optimizer = torch.optim.AdamW(model.parameters())
    position = DataPosition(loader)
    job = motet.current_job()
    num_done = int(job.checkpoint(model=model, optimizer=optimizer, data=position, every_turns=every))
    print("begins after", num_done)
    for _ in position.epochs(epochs):
        for x, y in position:
            time.sleep(pause)
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
            num_done += 1
            if dist.get_rank() == 0:
                Path(f"{job.name}.steps").write_text(str(num_done))
    return {"weights": digest(model.module), "random": float(torch.rand(1)), "steps": num_done}


def digest(module: nn.Module) -> str:
    """Return a word that two models share only if they are equal to the bit."""
    sums = hashlib.sha256()
    for tensor in module.state_dict().values():
        sums.update(tensor.numpy().tobytes())
    return sums.hexdigest()


def _happen(what: str, model: nn.Module) -> None:
    if what in ("raise", "raise-alone"):
        raise ValueError("no such layer")
    if what in ("oom", "oom-alone"):
        torch.empty(1 << 50)
    if what in ("kill", "stall"):
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGSTOP)
    if what == "sleep":
        Path("sleeps").touch()
        time.sleep(1000)
    if what == "nan":
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
    if what == "other-shape":
        extra = DistributedDataParallel(nn.Linear(3, 5))
        extra(torch.ones(2, 3)).sum().backward()
