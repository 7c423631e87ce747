"""Faults on demand, and a tiny job to try them on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong in a job, on ``worker`` (None: on all), at the job's ``step``-th DDP forward.

    ``raise``: a RuntimeError; ``exit``: the process exits with status 3; ``kill``: SIGKILL; ``term``: SIGTERM (as a
    cluster sends it); ``interrupt``: SIGINT; ``hang``: nothing happens any more.
    """

    kind: Literal["raise", "exit", "kill", "term", "interrupt", "hang"]
    worker: int | None = None
    step: int = 2

    def happen(self) -> None:
        """Let it go wrong, here and now."""
        signals = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
        if self.kind == "raise":
            raise RuntimeError(f"a fault was asked for at step {self.step}")
        if self.kind == "exit":
            os._exit(3)
        if self.kind == "hang":
            while True:
                time.sleep(60)
        # From another process: what a job sends to its own is that job's alone.
        subprocess.run(["kill", f"-{signals[self.kind].value}", str(os.getpid())], check=True)


def with_fault(call: Callable[[], Any], fault: Fault) -> Callable[[], Any]:
    """Return a job that does what ``call`` does, until the fault strikes. The loop itself is not changed."""

    def faulty() -> Any:
        import torch.distributed as dist
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.nn.parallel import DistributedDataParallel

        from motet.handle import current_job

        name, steps = current_job().name, 0

        def before_forward(module: torch.nn.Module, inputs: Any) -> None:
            nonlocal steps
            if isinstance(module, DistributedDataParallel) and current_job().name == name:
                steps += 1
                if steps == fault.step and fault.worker in (None, dist.get_rank()):
                    fault.happen()

        hook = register_module_forward_pre_hook(before_forward)  # for every module: other jobs' are passed over
        try:
            return call()
        finally:
            hook.remove()

    return faulty


def tiny_job(width: int = 8, steps: int = 5, seed: int = 0) -> list[torch.Tensor]:
    """Train a tiny model for some steps under plain DDP; return its parameters. Takes milliseconds."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    torch.manual_seed(seed)
    layers = torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.ReLU(), torch.nn.Linear(width, 1))
    model = DistributedDataParallel(layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    numbers = torch.Generator().manual_seed(seed + dist.get_rank())
    for _ in range(steps):
        inputs = torch.randn(16, 4, generator=numbers)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]
