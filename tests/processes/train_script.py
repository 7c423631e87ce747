"""A training script as one would hand it to torchrun: it saves its last weights, and can end in many ways on the way.

``--crash HOW --at TURN --worker N``: once (a file remembers), in that turn, on that worker (-1: on all).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import motet

parser = argparse.ArgumentParser()
parser.add_argument("--out", required=True)
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--save", type=int, default=0)
parser.add_argument("--pause", type=float, default=0.0)
parser.add_argument("--crash", choices=("kill", "segfault", "exit", "raise", "memory", "hang"))
parser.add_argument("--at", type=int, default=5)
parser.add_argument("--worker", type=int, default=0)
parser.add_argument("--always", action="store_true")
options = parser.parse_args()


def crash(how: str | None) -> None:
    """End this process in a way that was asked for."""
    sys.stdout.flush()
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "exit":
        os._exit(7)
    elif how == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
        torch.empty(1 << 30)
    elif how == "hang":
        while True:
            time.sleep(3600)
    raise RuntimeError(f"worker {dist.get_rank()} met something\nand says more of it")


def crashes_now(step: int) -> bool:
    """Whether it is time to."""
    if options.crash is None or step != options.at or options.worker not in (-1, dist.get_rank()):
        return False
    marker = Path(f"{options.out}.crashed-{dist.get_rank()}")
    if marker.exists() and not options.always:
        return False
    marker.touch()
    return True


# So that it can be struck in these ways from outside, at any moment.
signal.signal(signal.SIGUSR1, lambda number, frame: crash("exit"))
signal.signal(signal.SIGUSR2, lambda number, frame: crash("memory"))
dist.init_process_group("gloo")
torch.manual_seed(0)
layers = [
    torch.nn.Linear(8, 16),
    torch.nn.BatchNorm1d(16),
    torch.nn.ReLU(),
    torch.nn.Dropout(0.1),
    torch.nn.Linear(16, 2),
]
model = DistributedDataParallel(torch.nn.Sequential(*layers))
optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
torch.manual_seed(dist.get_rank())
start = (
    motet.current_job().checkpoint(model=model, optimizer=optimizer, every_turns=options.save) if options.save else 0
)
for step in range(int(start), options.steps):
    loss = model(torch.randn(4, 8)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    if crashes_now(step):
        crash(options.crash)
    optimizer.step()
    if options.pause:
        time.sleep(options.pause)
    if options.save:
        start.save_point()
motet.current_job().log(loss=loss.item())
torch.save([model.state_dict(), optimizer.state_dict()], f"{options.out}.{dist.get_rank()}.pt")
print("done", flush=True)
dist.destroy_process_group()
