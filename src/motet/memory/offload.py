"""``--offload idle``: what a job holds is kept in the host's memory while others have their turns.

The state that is known (the parameters, buffers and gradients of the job's DDP models, its optimizers' state) is
copied to pinned memory when its turn has ended, and copied back on a side stream while the job before it computes.
Tensors stay the same objects: their storages are emptied and filled again, so every view, parameter group and
optimizer entry finds its bytes where it left them, and the weights are the same bit for bit. DDP's buckets stay,
since gradients are in flight in them meanwhile.

Not known, and left where it is: what a loop holds beside its DDP models and optimizers. Whatever reads a job's state
outside of its turns would find nothing: tensors that several jobs share, a thread of the loop's own that reads
parameters, a captured CUDA graph (it remembers addresses).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from motet.memory.footprint import tensors_in

SMALLEST_BYTES = 4096
"""Smaller storages stay: moving one costs more than it frees (a step counter, a norm's weight)."""


class Transfers(Protocol):
    """The way between a device and the host's memory."""

    device_type: str

    def place(self, num_bytes: int) -> Tensor:
        """Return memory of the host, as bytes."""

    def aside(self) -> AbstractContextManager[Any]:
        """Run what is inside behind what the compute stream holds now, and beside what comes later."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy bytes; called inside `aside` alone."""

    def mark(self) -> object:
        """Return a mark behind all that was done aside so far."""

    def wait(self, mark: object) -> None:
        """Let the compute stream go on only behind ``mark``. Does not block the host."""

    def keep(self, tensor: Tensor) -> None:
        """Let nobody reuse this memory, once it is freed, before what was done aside is over."""


class StreamTransfers:
    """Copies on one side stream, in both directions: what comes back is never overtaken by what goes."""

    def __init__(self, device: torch.device) -> None:
        self.device_type = device.type
        self._device = device
        self._side = torch.Stream(device)

    def place(self, num_bytes: int) -> Tensor:
        """Return pinned memory: copies from and to it need no help of the host."""
        return torch.empty(num_bytes, dtype=torch.uint8, device="cpu", pin_memory=True)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Run what is inside on the side stream."""
        self._side.wait_stream(torch.accelerator.current_stream(self._device))
        with self._side:
            yield

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy on the current stream; from and to pinned memory the host does not wait for it."""
        target.copy_(source, non_blocking=True)

    def mark(self) -> object:
        """Return an event."""
        event = torch.Event(self._device)
        event.record(self._side)
        return event

    def wait(self, mark: object) -> None:
        """Order the compute stream behind the event."""
        assert isinstance(mark, torch.Event)
        torch.accelerator.current_stream(self._device).wait_event(mark)

    def keep(self, tensor: Tensor) -> None:
        """Let the allocator know that the side stream uses this memory."""
        tensor.record_stream(self._side)


class HostTransfers:
    """Copies from main memory to main memory: of no use but to tests, which have no device."""

    device_type = "cpu"

    def place(self, num_bytes: int) -> Tensor:
        """Return memory."""
        return torch.empty(num_bytes, dtype=torch.uint8, device="cpu")

    def aside(self) -> AbstractContextManager[Any]:
        """Nothing is beside anything."""
        return contextlib.nullcontext()

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy now."""
        target.copy_(source)

    def mark(self) -> object:
        """Return nothing."""
        return None

    def wait(self, mark: object) -> None:
        """Copies are over when they return."""

    def keep(self, tensor: Tensor) -> None:
        """Nothing happens later."""


@dataclass(slots=True)
class _Offloaded:
    """Storages of one job, each with its bytes in the host's memory."""

    moved: list[tuple[torch.UntypedStorage, Tensor]]
    returning: bool = False
    mark: object = None


@dataclass
class Offload:
    """Where each job's state is. All calls come from the main thread, between turns."""

    transfers: Transfers
    moved_bytes: int = 0
    _offloaded: dict[str, _Offloaded] = field(default_factory=dict)
    _places: dict[int, list[Tensor]] = field(default_factory=dict)

    def put_away(self, job: str, tensors: Iterable[Tensor]) -> int:
        """Begin to move a job's state to the host, and free its memory; return the bytes. Does not block."""
        assert job not in self._offloaded
        storages = movable(tensors, self.transfers.device_type)
        offloaded = self._offloaded[job] = _Offloaded([])
        with torch.no_grad(), self.transfers.aside():
            for storage in storages:
                bytes_there = _as_bytes(storage)
                place = self._place(storage.nbytes())
                self.transfers.copy(place, bytes_there)
                self.transfers.keep(bytes_there)
                offloaded.moved.append((storage, place))
        for storage, _ in offloaded.moved:
            storage.resize_(0)
        moved = sum(place.numel() for _, place in offloaded.moved)
        self.moved_bytes += moved
        return moved

    def begin_return(self, job: str) -> None:
        """Begin to bring a job's state back, if it is offloaded. Does not block."""
        offloaded = self._offloaded.get(job)
        if offloaded is None or offloaded.returning:
            return
        offloaded.returning = True
        for storage, place in offloaded.moved:  # in the compute stream's memory: it is the one that uses it
            storage.resize_(place.numel())
        with torch.no_grad(), self.transfers.aside():
            for storage, place in offloaded.moved:
                self.transfers.copy(_as_bytes(storage), place)
        offloaded.mark = self.transfers.mark()

    def returned(self, job: str) -> None:
        """Let what the job computes from now on find its state. The host waits for nothing."""
        if job not in self._offloaded:
            return
        self.begin_return(job)
        offloaded = self._offloaded.pop(job)
        self.transfers.wait(offloaded.mark)
        for _, place in offloaded.moved:  # the next copy into it stands behind this one, on the same stream
            self._places.setdefault(place.numel(), []).append(place)

    def _place(self, num_bytes: int) -> Tensor:
        free = self._places.get(num_bytes)
        return free.pop() if free else self.transfers.place(num_bytes)


def movable(tensors: Iterable[Tensor], device_type: str) -> list[torch.UntypedStorage]:
    """Return the storages of these tensors that are worth moving from such a device, and can be emptied; each once."""
    found: dict[int, torch.UntypedStorage] = {}
    for tensor in tensors:
        if tensor.device.type != device_type or tensor.layout != torch.strided:
            continue
        storage = tensor.untyped_storage()
        shared = tensor.device.type == "cpu" and storage.is_shared()  # with another process
        if storage.nbytes() >= SMALLEST_BYTES and storage.resizable() and not shared:
            found[storage._cdata] = storage
    return list(found.values())


def state_of(
    models: Sequence[DistributedDataParallel],
    optimizers: Iterable[torch.optim.Optimizer],
    aliased: Mapping[int, Tensor] = MappingProxyType({}),
) -> Iterator[Tensor]:
    """Yield the tensors that a job needs in its turns only.

    Gradients that are views of buckets are not among them: something may be in flight there. Where a bucket stands in a
    gradient's place for as long as it is in flight, ``aliased`` has the gradient itself (`JobGradients.aliased`).
    """
    for model in models:
        for parameter in model.parameters():
            yield parameter
            gradient = aliased.get(id(parameter), parameter.grad)
            if gradient is not None and not model.gradient_as_bucket_view:
                yield gradient
        yield from model.buffers()
    for optimizer in optimizers:
        yield from tensors_in(optimizer.state)


def _as_bytes(storage: torch.UntypedStorage) -> Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
