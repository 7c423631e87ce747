"""Which device this worker computes on, and which backends join the workers: what torchrun's users expect.

One worker, one device: worker ``LOCAL_RANK`` of a machine takes the device of that number, as scripts do with
``set_device(local_rank)``. Tensors on the CPU go by gloo, those on the device by its own library (NCCL on CUDA).
Where a machine has fewer devices than workers, several share one: NCCL refuses that, so gloo carries everything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist

LANES_VARIABLE = "MOTET_DEVICE_LANES"
"""``job``: each job's gradients get a communicator of their own on the device, too. Anything else: one for all."""
LAUNCH_ORDER_VARIABLE = "NCCL_LAUNCH_ORDER_IMPLICIT"
"""NCCL 2.26 and newer: several communicators launch in the host's order of issue, the same on all workers (ADR 20)."""


@dataclass(frozen=True)
class Choice:
    """``backend``: as `torch.distributed.init_process_group` takes it; ``device``: its index, None on a CPU."""

    backend: str
    device: int | None


def choose(accelerator: str | None, num_devices: int, local_rank: int, num_local: int, backend: str | None) -> Choice:
    """Return what a worker uses. ``backend``: the accelerator's own, None where this torch has none for it."""
    if accelerator is None or num_devices == 0:
        return Choice("gloo", None)
    if backend is None or backend == "gloo" or num_local > num_devices:
        return Choice("gloo", local_rank % num_devices)
    return Choice(f"cpu:gloo,{accelerator}:{backend}", local_rank)


def chosen_here() -> Choice:
    """Return what this worker uses, from torchrun's environment and the devices that torch sees."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return Choice("gloo", None)
    backend: str | None = dist.get_default_backend_for_device(accelerator.type)
    if backend is not None and not dist.is_backend_available(backend):
        backend = None
    return choose(
        accelerator.type,
        torch.accelerator.device_count(),
        int(os.environ.get("LOCAL_RANK", "0")),
        int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        backend,
    )


def backends(config: str) -> dict[str, str]:
    """Return the backend of each kind of device from ``torch.distributed.get_backend_config()``."""
    return dict(part.split(":", 1) for part in config.split(",") if ":" in part)


def has_device_backend(config: str) -> bool:
    """Whether a library of the device's own joins the workers (NCCL), whose communicators must not be mixed."""
    return any(device != "cpu" and backend != "gloo" for device, backend in backends(config).items())


def one_communicator(config: str) -> bool:
    """Whether all collectives on the device go through the group of all workers (ADR 0020)."""
    return has_device_backend(config) and os.environ.get(LANES_VARIABLE) != "job"


def order_launches(config: str) -> None:
    """Let NCCL launch several communicators in the order of issue, before the first of them is made."""
    if has_device_backend(config) and not one_communicator(config):
        os.environ.setdefault(LAUNCH_ORDER_VARIABLE, "1")
