"""Loops with whatever a program has beside its model: DataLoader workers, threads, pools, handlers, children.

Each saves checkpoints, and ends with a word that tells its weights to the bit. What runs beside it gives it numbers
that follow from the step alone, so that a loop that goes on from a checkpoint ends as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
from tests.chaos.loops import ended
from tests.distributed.identity import run_alone
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import motet
from motet.checkpoints import DataPosition

Scale = Callable[[int], float]
NUM_STEPS = 60


@contextlib.contextmanager
def threads() -> Iterator[Scale]:
    """A pool that is asked in each step, and at the end a thread that nobody waits for but Python."""
    with ThreadPoolExecutor(2) as pool:
        yield lambda step: pool.submit(_scale, step).result()
    threading.Thread(target=time.sleep, args=(0.2,)).start()


@contextlib.contextmanager
def handlers() -> Iterator[Scale]:
    """A timer whose handler comes again and again, and one that would raise if it ever came."""
    came: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, frame: came.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    signal.signal(signal.SIGXCPU, _too_long)
    try:
        yield _scale
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


@contextlib.contextmanager
def children() -> Iterator[Scale]:
    """A process that answers in each step, and a pool of processes."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=_answer, args=(there,), daemon=True)
    child.start()
    there.close()
    try:
        with context.Pool(1) as pool:

            def ask(step: int) -> float:
                if step % 8 == 0:
                    return float(pool.apply_async(_scale, (step,)).get(timeout=30))
                here.send(step)  # each question has its answer: what is left in a pipe is in no checkpoint
                return float(here.recv())

            yield ask
    finally:
        with contextlib.suppress(OSError):
            here.send(None)
        child.join()


def _scale(step: int) -> float:
    return 1.0 + step % 5


def _answer(there: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        while (step := there.recv()) is not None:
            there.send(_scale(step))


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError("nobody has sent this")


BESIDE = {"threads": threads, "handlers": handlers, "children": children}


def beside(name: str, seed: int, pause: float = 0.01) -> str:
    """Train with something beside."""
    with BESIDE[name]() as scale:
        model, optimizer = _model(seed)
        draws = torch.Generator().manual_seed(dist.get_rank())
        start = motet.current_job().checkpoint(model=model, optimizer=optimizer, draws=draws, every_turns=7)
        for step in range(start, NUM_STEPS):
            time.sleep(pause)
            optimizer.zero_grad()
            (model(torch.randn(4, 16, generator=draws)) * scale(step)).square().mean().backward()
            optimizer.step()
            _touch("begun")
            start.save_point()
        return _ended(model, optimizer)


def loader(seed: int, pause: float = 0.01) -> str:
    """Train on what a DataLoader worker loads."""
    model, optimizer = _model(seed)
    data = TensorDataset(torch.randn(160, 16), torch.randn(160, 1))
    position = DataPosition(DataLoader(data, 8, sampler=DistributedSampler(data, seed=seed), num_workers=1))
    motet.current_job().checkpoint(model=model, optimizer=optimizer, data=position, every_turns=7)
    for _ in position.epochs(6):
        for x, y in position:
            time.sleep(pause)
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
            _touch("begun")
    return _ended(model, optimizer)


def _model(seed: int) -> tuple[DistributedDataParallel, torch.optim.Optimizer]:
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # in a process of its own
    torch.manual_seed(seed)
    layers = [nn.Linear(16, 64), nn.BatchNorm1d(64), nn.Dropout(0.1), nn.Linear(64, 1)]
    model = DistributedDataParallel(nn.Sequential(*layers))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def _ended(model: DistributedDataParallel, optimizer: torch.optim.Optimizer) -> str:
    word = ended(model, optimizer)
    _touch("ended")
    return word


def _touch(what: str) -> None:
    """Tell whoever strikes how far this job is; alone it tells nobody."""
    if dist.get_rank() == 0 and (marks := os.environ.get("MOTET_TEST_MARKS")):
        Path(marks, f"{motet.current_job().name}.{what}").touch()


JOBS = {
    "loader": {"call": "tests.chaos.busy_loops:loader", "with": {"seed": 1}},
    **{
        name: {"call": "tests.chaos.busy_loops:beside", "with": {"name": name, "seed": seed}}
        for seed, name in enumerate(BESIDE, start=2)
    },
}


def alone(name: str) -> str:
    """Run a loop alone under plain DDP."""
    seed = int(str(JOBS[name]["with"]["seed"]))  # type: ignore[index, call-overload]
    return str(run_alone(lambda: loader(seed) if name == "loader" else beside(name, seed)))
