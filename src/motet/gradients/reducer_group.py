"""The process group that DDP's reducer is given: gradients leave it on a way of their own, all else does not.

A communication hook would see the buckets as well, but costs what plain DDP does not pay: without a hook the reducer
scales gradients while it copies them into the bucket, in one pass (ADR 0015). So its own arithmetic is left to it,
and its only collective per bucket is what `ReducerGroup` takes over.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import _create_work_from_future  # type: ignore[attr-defined]

Send = Callable[[list[Tensor], Any], dist.Work]


class ReducerGroup(dist.ProcessGroup):
    """Stands for ``group`` towards one reducer; ``send`` is called in place of ``group.allreduce``.

    Everything but an all-reduce (agreeing on rebuilt buckets, say) goes to the group itself, and everything goes to its
    backends once nobody in Python refers to this object any more.

    The other collectives are overridden for one reason: what a class in Python does not override, torch calls with the
    interpreter's lock held. Gloo's threads take that lock, too, when they let go of what a communication hook left
    behind, and hold the one of their queue meanwhile, which the collective needs: both would wait for ever.
    """

    def __init__(self, group: dist.ProcessGroup, send: Send) -> None:
        super().__init__(group.rank(), group.size())  # type: ignore[call-arg]
        _hide_from_dynamo()
        self._group, self._send = group, send
        backends = dist.BackendConfig(dist.Backend(dist.get_backend_config(group))).get_device_backend_map()
        for device in group._device_types:
            kind = dist.Backend.backend_type_map[backends[device.type]]
            self._register_backend(device, kind, group._get_backend(device))
        present = [backends[device.type] for device in group._device_types]
        self._set_default_backend(dist.Backend.backend_type_map["nccl" if "nccl" in present else present[0]])

    def allreduce(self, tensors: list[Tensor], opts: Any) -> dist.Work:  # type: ignore[override]
        """Send a bucket on its way, or synchronize what is no bucket."""
        return self._send(tensors, opts)

    def broadcast(self, *args: Any) -> dist.Work:
        return self._group.broadcast(*args)

    def allgather(self, *args: Any) -> dist.Work:
        return self._group.allgather(*args)

    def barrier(self, *args: Any) -> dist.Work:
        return self._group.barrier(*args)


@functools.cache
def _hide_from_dynamo() -> None:
    """Keep Dynamo out of the methods that the reducer calls; once, with the first model (DDP imports Dynamo as well).

    It would look into them where a whole DDP model is compiled, and fail: an object of this class is a process group to
    it, of which it knows the members of torch's own class alone.
    """
    for name in ("allreduce", "broadcast", "allgather", "barrier"):
        setattr(ReducerGroup, name, torch.compiler.disable(ReducerGroup.__dict__[name]))


def completed_work(tensor: Tensor) -> dist.Work:
    """Return the handle of a collective that is over, with ``tensor`` as its result."""
    devices = None if tensor.is_cpu else [tensor.device]
    future: torch.futures.Future[list[Tensor]] = torch.futures.Future(devices=devices)  # type: ignore[arg-type]
    future.set_result([tensor])
    work: dist.Work = _create_work_from_future(future)
    return work
