"""What cannot be pipelined, and what frameworks do with signals."""

from __future__ import annotations

import signal
import sys
import types
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tests.outside import send_from_outside
from torch import nn


def fully_sharded(folder: Path) -> None:
    """As the FSDP settings of Lightning, Fabric, Accelerate and Transformers do on accelerators."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    FullyShardedDataParallel(nn.Linear(4, 4))


def tensor_parallel(folder: Path) -> None:
    """As a tensor-parallel plan does."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    parallelize_module(nn.Linear(4, 4), init_device_mesh("cpu", (dist.get_world_size(),)), ColwiseParallel())


def deepspeed(folder: Path) -> None:
    """As DeepSpeed does when it builds an engine: a group of its own; with a stand-in for DeepSpeed."""
    source = "import torch.distributed as dist\ndef initialize():\n    return dist.new_group(range(2))\n"
    module = types.ModuleType("deepspeed")
    exec(source, module.__dict__)
    module.initialize()


def tpu(folder: Path) -> None:
    """As on a TPU."""
    dist.init_process_group("xla")


def handlers(folder: Path) -> list[Any]:
    """Set handlers as frameworks do when a training begins, train, and set the earlier ones when it ends."""
    from motet.testing import tiny_job

    def own(number: int, frame: object) -> None: ...

    before = signal.getsignal(signal.SIGTERM)
    first = signal.signal(signal.SIGTERM, own)
    tiny_job(steps=3)
    seen = [first is before, before == signal.SIG_DFL, signal.getsignal(signal.SIGTERM) is own]
    return [*seen, signal.signal(signal.SIGTERM, before) is own, signal.getsignal(signal.SIGINT).__name__]


def stopped(folder: Path, lightning: bool = False) -> None:
    """Train until a signal stops the run; it comes in the third turn, to worker 0 alone."""
    from motet.testing import tiny_job

    def strike(module: nn.Module, args: Any) -> None:
        if dist.get_rank() == 0 and not (folder / "struck").exists():
            (folder / "struck").touch()
            send_from_outside(signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("the handler of a job must not run"))
    hook = nn.modules.module.register_module_forward_pre_hook(strike)
    try:
        tiny_job(steps=100_000)
    finally:
        hook.remove()
