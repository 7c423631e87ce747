"""Start a job's synchronization now, wait for it later.

DDP hands every finished bucket to a communication hook and waits for the future that the hook returns before
``backward()`` returns. `JobGradients` starts the real collective on the job's lane, keeps its handle, and returns a
future that is already complete: ``backward()`` returns at once, and the job's turn can end while its gradients
travel (ADR 0002). `JobGradients.wait_landed` is the other half: afterwards every ``p.grad`` holds what plain DDP
would have left there, bit for bit.

Buckets leave in the order in which DDP's reducer hands them over, which is the same on every worker.
"""

from __future__ import annotations

import contextlib
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch._prims_common import is_non_overlapping_and_dense_or_false

from motet.clocks import Link, Stopwatch
from motet.compression import Packer
from motet.device_time import DeviceClock, Travel
from motet.errors import UnsupportedError

Hook = Callable[[Any, GradBucket], "torch.futures.Future[Tensor]"]
_SUM = dist.AllreduceOptions()
_SUM.asyncOp = True
WORTH_LENDING_BYTES = 64 * 1024  # a parameter: below, binding its gradient twice costs more than the copy


@dataclass(slots=True)
class Travelling:
    """One bucket on its way. ``done`` is set when it has arrived, or failed.

    ``wait`` then raises what went wrong, or (on an accelerator) orders its stream behind the arrival; ``land`` brings
    the bucket to where plain DDP would have left it. One that will never land is dropped instead.
    """

    done: threading.Event
    wait: Callable[[], object]
    land: Callable[[], None]
    drop: Callable[[], None]


@dataclass(slots=True)
class Turnaround:
    """When and how much one turn synchronized.

    ``launched`` and ``completed`` are `time.perf_counter` values of this worker; ``link_seconds`` is the turn's share
    of the network's busy time (`motet.clocks.Link`); ``launches`` are the moment and the bytes of each bucket.
    """

    launched: float = 0.0
    completed: float = 0.0
    waited_at_launch: float = 0.0
    hidden_seconds: float = 0.0
    link_seconds: float = 0.0
    num_bytes: int = 0
    num_collectives: int = 0
    launches: list[tuple[float, int]] = field(default_factory=list)
    travels: list[Travel] = field(default_factory=list)  # of buckets on a device, in place of all times above
    error: Exception | None = None  # what a user's hook raised


@dataclass(slots=True, eq=False)
class DeferredDDP:
    """What is known of one ``DistributedDataParallel`` of a job. Holds no reference to it, so that it can be freed."""

    group: dist.ProcessGroup
    world_size: int
    gradient_as_bucket_view: bool
    may_skip_parameters: bool
    batched_grad_copy: bool
    has_complex: bool = False
    user_hook: tuple[Any, Hook] | None = None
    views: dict[int, tuple[int, list[Tensor], list[Tensor]]] = field(default_factory=dict)
    held_views: set[int] = field(default_factory=set)
    completed: dict[int, tuple[Tensor, torch.futures.Future[Tensor]]] = field(default_factory=dict)
    packer: Packer | None = None  # gradients travel as bfloat16

    def let_go(self) -> None:
        """Let go of the model's buckets: it is gone, or its job has ended."""
        if self.packer is not None:
            self.packer.clear()
        self.views.clear()
        self.completed.clear()


class JobGradients:
    """All gradients of one job that are in flight, whichever of its DDP models they belong to.

    ``depth`` counts the job's nested ``backward()`` calls; buckets are deferred only while it is above 0, because
    only then somebody ends the turn. A backward that does not come through the seam waits as under plain DDP.
    """

    def __init__(
        self,
        job: str,
        stopwatch: Stopwatch,
        link: Link,
        on_exposed: Callable[[bool], None],
        clock: DeviceClock | None = None,
    ) -> None:
        self.job = job
        self.device_lane: dist.ProcessGroup | None = None  # for gradients on a device, where `lane` is not
        self.depth = 0
        self.lane: dist.ProcessGroup | None = None
        self.aggregate: Callable[[Tensor], torch.futures.Future[Tensor]] | None = None  # instead of an all-reduce
        self.compress = False  # gradients travel as bfloat16
        self.signature = 0  # runs over (job, turn, buckets); the workers compare it now and then
        self.num_ddp = 0
        self._stopwatch = stopwatch
        self._link = link
        self._on_exposed = on_exposed
        self._clock = clock or DeviceClock()
        self._stream: torch.Stream | None = None  # the one that the job computes in, on a device
        self._travelling: list[Travelling] = []
        self._turn = Turnaround()
        self._events: list[threading.Event] = []  # of buckets that have landed, to be used again: making one is slow
        self._models: list[DeferredDDP] = []
        self._sent: set[DeferredDDP] = set()
        self.lent: dict[int, Tensor] = {}  # by the parameter's id: gradients in whose place its bucket stands meanwhile

    def backward_over(self) -> None:
        """Note which stream the job computes in; called in the job when its gradients have left."""
        if self._turn.travels:
            self._stream = torch.accelerator.current_stream(self._clock.device)

    def on_stream(self) -> AbstractContextManager[object]:
        """Act in the job's stream, which need not be the one that is current between turns."""
        return contextlib.nullcontext() if self._stream is None else self._stream

    @property
    def in_flight(self) -> bool:
        """Whether gradients are travelling."""
        return bool(self._travelling)

    def models_in_flight(self) -> list[DeferredDDP]:
        """Return the DDP models whose gradients left in this turn, in the order in which they were built."""
        return [model for model in self._models if model in self._sent]

    @property
    def models(self) -> list[DeferredDDP]:
        """All DDP models that the job has built."""
        return self._models

    @property
    def travels(self) -> list[Travel]:
        """The buckets of the current turn that travel from and to a device."""
        return self._turn.travels

    @property
    def num_collectives(self) -> int:
        """How many buckets the current turn has sent off."""
        return self._turn.num_collectives

    def attach(self, model: DeferredDDP) -> Callable[[Any, GradBucket], torch.futures.Future[Tensor]]:
        """Return the communication hook for a DDP model of this job."""
        self._models.append(model)
        self.num_ddp += 1
        if self.compress and not model.has_complex:
            model.packer = Packer()

        def motet_hook(state: Any, bucket: GradBucket) -> torch.futures.Future[Tensor]:
            return self._send(model, bucket)

        return motet_hook

    def before_backward(self) -> None:
        """Look at what the outermost ``backward()`` is going to overwrite.

        Where gradients are views of DDP's buckets, DDP *divides* those that already lie in the bucket and
        *multiplies* those that it copies there; for a world size that is no power of two the last bits differ.
        """
        for model in self._models:
            if model.gradient_as_bucket_view and model.world_size & (model.world_size - 1):
                model.held_views = {
                    id(p)
                    for _, parameters, _ in model.views.values()
                    for p in parameters
                    if p.grad is not None and p.grad._is_view()
                }

    def _send(self, model: DeferredDDP, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        buffer = bucket.buffer()
        deferred = self.depth > 0 and self.lane is not None and buffer.layout == torch.strided
        group = self._lane(buffer) if deferred else model.group
        if model.user_hook is not None:
            state, hook = model.user_hook
            future = hook(state, bucket)
            if not deferred:
                return future
            self._keep(model, bucket, buffer, buffer, None, future)
            return _completed(buffer)
        travels = self._scaled(model, bucket, buffer)
        if deferred and self.aggregate is not None:
            self._keep(model, bucket, buffer, travels, None, self.aggregate(travels))
            return _completed(buffer)
        # What dist.all_reduce does to a bucket, without the tenth of a millisecond that it takes to get there.
        assert group is not None
        work = group.allreduce([travels], _SUM)
        if not deferred:
            if self.lane is not None:
                self._on_exposed(self.depth == 0)
            first: torch.futures.Future[Tensor] = work.get_future().then(
                lambda done: _unpacked(buffer, done.value()[0])
            )
            return first
        self._keep(model, bucket, buffer, travels, work, work.get_future())
        return self._completed(model, bucket, buffer)

    def _lane(self, buffer: Tensor) -> dist.ProcessGroup | None:
        """Return the group that a bucket travels on (ADR 0020)."""
        return self.lane if self.device_lane is None or buffer.is_cpu else self.device_lane

    def _completed(self, model: DeferredDDP, bucket: GradBucket, buffer: Tensor) -> torch.futures.Future[Tensor]:
        """Return a completed future of the bucket: the same one as long as it is the same memory, on the CPU."""
        known = model.completed.get(bucket.index())
        if known is None or known[0].data_ptr() != buffer.data_ptr():
            if bucket.index() == 0:
                model.completed.clear()  # rebuilt buckets
            known = buffer, _completed(buffer)
            if buffer.device.type == "cpu":  # elsewhere a future holds the moment at which it was completed
                model.completed[bucket.index()] = known
        return known[1]

    def _scaled(self, model: DeferredDDP, bucket: GradBucket, buffer: Tensor) -> Tensor:
        """Divide the bucket by the number of workers; return what travels: the bucket itself, or smaller."""
        if model.packer is not None:
            packed = model.packer.pack(bucket.index(), buffer, model.world_size)
            if packed is not None:
                return packed
        self._scale(model, bucket, buffer)
        return buffer

    def _scale(self, model: DeferredDDP, bucket: GradBucket, buffer: Tensor) -> None:
        """Do to the bucket what DDP's reducer does to it when it has no hook, operation by operation."""
        size = model.world_size
        if buffer.layout != torch.strided or model.batched_grad_copy:
            buffer.div_(size)
            return
        if model.gradient_as_bucket_view and size & (size - 1):
            _, parameters, views = self._views(model, bucket, buffer)  # remembered for before_backward()
        if not model.held_views:
            buffer.mul_(1.0 / size)
            return
        for parameter, view in zip(parameters, views, strict=True):
            if id(parameter) in model.held_views:
                view.div_(size)
            else:
                view.mul_(1.0 / size)

    def _views(self, model: DeferredDDP, bucket: GradBucket, buffer: Tensor) -> tuple[int, list[Tensor], list[Tensor]]:
        """Return the bucket's parameters, and for each the part of ``buffer`` that holds its gradient."""
        index, pointer = bucket.index(), buffer.data_ptr()
        known = model.views.get(index)
        if known is None or known[0] != pointer:
            if index == 0:
                model.views.clear()  # rebuilt buckets; kept views hold their memory, so no pointer is met twice
            parameters = bucket.parameters()
            known = model.views[index] = (pointer, parameters, split_bucket(buffer, parameters))
        return known

    def _keep(
        self,
        model: DeferredDDP,
        bucket: GradBucket,
        buffer: Tensor,
        travels: Tensor,
        work: dist.Work | None,
        future: torch.futures.Future[Any],
    ) -> None:
        turn, now = self._turn, time.perf_counter()
        if not self._travelling:
            turn.launched, turn.waited_at_launch = now, self._stopwatch.waited_seconds(now)
        self._sent.add(model)
        num_bytes = travels.numel() * travels.element_size()
        turn.num_bytes += num_bytes
        turn.num_collectives += 1
        turn.launches.append((now, num_bytes))
        self.signature = zlib.crc32(b"%d.%d" % (turn.num_collectives, num_bytes), self.signature)
        done = self._events.pop() if self._events else threading.Event()
        if work is not None:
            landing = self._landing(model, bucket, buffer, lambda: travels)
            self._travelling.append(Travelling(done, work.wait, *landing))
        else:
            landing = self._landing(model, bucket, buffer, lambda: _hook_result(future))
            self._travelling.append(Travelling(done, lambda: _wait_for_hook(future), *landing))
        if not buffer.is_cpu:
            self._follow_on_device(turn, self._travelling[-1], future, buffer.device, num_bytes)
            return
        share = self._link.begin(now)

        def arrived(_: object) -> None:  # runs on a thread of the process group
            moment = time.perf_counter()
            turn.completed = moment
            turn.link_seconds += self._link.end(share, moment)
            turn.hidden_seconds = moment - turn.launched
            turn.hidden_seconds -= self._stopwatch.waited_seconds(moment) - turn.waited_at_launch
            done.set()

        future.add_done_callback(arrived)

    def _follow_on_device(
        self,
        turn: Turnaround,
        travelling: Travelling,
        future: torch.futures.Future[Any],
        device: torch.device,
        num_bytes: int,
    ) -> None:
        """Note when a bucket leaves and arrives in the device's time.

        NCCL's future is complete as soon as the collective is in its stream: then a wait orders a stream and holds
        up nobody, and an event behind it tells when the bucket is there. Gloo's is completed by a thread of its own,
        once the sums are on their way back to the device; a wait holds up the host until then.
        """
        self._clock.use(device)
        travel = Travel(self._clock.now(), num_bytes)
        turn.travels.append(travel)
        if future.done():
            travel.completed = self._clock.behind(travelling.wait)
            travelling.done.set()
            return

        def arrived(_: object) -> None:
            travel.completed = self._clock.host_now()
            travelling.done.set()

        future.add_done_callback(arrived)

    def _landing(
        self, model: DeferredDDP, bucket: GradBucket, buffer: Tensor, result: Callable[[], Tensor]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return what brings the synchronized bucket to where plain DDP leaves it, and what gives it up."""
        if model.gradient_as_bucket_view:
            return lambda: _copy_unless_same(buffer, result()), _nothing  # the gradients are the bucket
        _, parameters, views = self._views(model, bucket, buffer)
        before = [(p.grad, _version(p.grad)) for p in parameters] if model.may_skip_parameters else None
        if before is None and not model.batched_grad_copy and buffer.nbytes >= WORTH_LENDING_BYTES * len(parameters):
            return self._lent(buffer, parameters, views, result)

        def into_gradients() -> None:
            landed = result()
            sources = views if landed is buffer else split_bucket(landed, parameters)
            targets: Sequence[Tensor | None] = [p.grad for p in parameters]
            if before is not None:
                # DDP has touched exactly the gradients of parameters that some worker used: leave the others as well.
                used = [t is not g or _version(t) != v for t, (g, v) in zip(targets, before, strict=True)]
                targets = list(compress(targets, used))
                sources = list(compress(sources, used))
            torch._foreach_copy_(targets, sources)  # type: ignore[arg-type]

        return into_gradients, _nothing

    def _lent(
        self, buffer: Tensor, parameters: Sequence[Tensor], views: Sequence[Tensor], result: Callable[[], Tensor]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Let DDP find its bucket where the gradients were, until the synchronized ones are copied there.

        DDP copies every bucket into the gradients before ``backward()`` returns: here as it left, which is of no use
        to anybody. A tensor that is copied onto itself costs nothing.
        """
        gradients = [p.grad for p in parameters]
        self.lent.update((id(p), g) for p, g in zip(parameters, gradients, strict=True) if g is not None)
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view

        def give_back() -> None:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient

        def into_gradients() -> None:
            landed = result()
            give_back()
            sources = views if landed is buffer else split_bucket(landed, parameters)
            torch._foreach_copy_(gradients, sources)  # type: ignore[arg-type]

        return into_gradients, give_back

    def wait_landed(self, wait: Callable[[Travelling], None]) -> Turnaround:
        """Block until all gradients of the turn are synchronized and lie where the optimizer looks for them.

        ``wait`` blocks for one bucket; what it raises leaves the rest in flight. Returns the turn's figures, with what
        a user's hook raised: that is the job's own.
        """
        with torch.no_grad(), self.on_stream():
            for bucket in self._travelling:
                wait(bucket)
                try:
                    bucket.land()
                except Exception as error:
                    self._turn.error = self._turn.error or error
                    bucket.drop()
        for bucket in self._travelling:
            bucket.done.clear()
            self._events.append(bucket.done)
        return self._begin_turn()

    def drain(self, wait: Callable[[Travelling], None]) -> None:
        """Block until nothing travels any more, and forget what arrived: the buffers may be freed afterwards."""
        with self.on_stream():
            for bucket in self._travelling:
                wait(bucket)
                bucket.drop()
        self._begin_turn()

    def abandon(self) -> list[Travelling]:
        """Forget what travels and return it. Whoever calls must keep it alive: the network still writes there."""
        lost, self._travelling = self._travelling, []
        for bucket in lost:
            bucket.drop()
        self.lane = None
        return lost

    def close(self) -> None:
        """End the deferral: DDP models that outlive the job synchronize on their own group, waiting as ever."""
        assert not self._travelling
        self.lane = None
        for model in self._models:
            model.let_go()

    def _begin_turn(self) -> Turnaround:
        self._travelling.clear()
        self._sent.clear()
        self.lent.clear()
        turn, self._turn = self._turn, Turnaround()
        return turn


def split_bucket(buffer: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return views of a flat bucket, one a parameter, laid out as DDP lays them out (strides of the parameter)."""
    views, offset = [], 0
    flat = buffer.detach().view(-1)
    if parameters and parameters[0].is_complex() and not flat.is_complex():
        flat = torch.view_as_complex(flat.view(-1, 2))  # DDP hands complex buckets over as pairs of real numbers
    for parameter in parameters:
        piece = flat.narrow(0, offset, parameter.numel())
        if parameter.is_contiguous() or not is_non_overlapping_and_dense_or_false(parameter):
            views.append(piece.view(parameter.shape))
        else:
            views.append(piece.as_strided(parameter.shape, parameter.stride()))
        offset += parameter.numel()
    return views


def _nothing() -> None:
    pass


def _completed(buffer: Tensor) -> torch.futures.Future[Tensor]:
    devices = None if buffer.device.type == "cpu" else [buffer.device]
    future: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)  # type: ignore[arg-type]
    future.set_result(buffer)
    return future


def _wait_for_hook(future: torch.futures.Future[Any]) -> None:
    """Wait for a user's hook; raise where the network failed. What the hook itself raised comes out on landing."""
    try:
        future.wait()
    except Exception as error:
        if isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo/", "NCCL")):
            raise


def _hook_result(future: torch.futures.Future[Any]) -> Tensor:
    value = future.wait()
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor):
        raise UnsupportedError(
            f"A communication hook's future must hold a tensor (or a list of one); it held {type(value).__name__}. "
            "Return a future of the synchronized bucket, as register_comm_hook documents."
        )
    return value


def _unpacked(buffer: Tensor, arrived: Tensor) -> Tensor:
    """Return the bucket with what arrived for it."""
    return arrived if arrived.dtype == buffer.dtype else buffer.copy_(arrived)


def _copy_unless_same(target: Tensor, source: Tensor) -> None:
    if source.data_ptr() != target.data_ptr():
        target.copy_(source.view_as(target))


def _version(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor._version
