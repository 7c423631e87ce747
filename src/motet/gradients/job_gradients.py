"""Start a job's synchronization now, wait for it later.

DDP's reducer hands every finished bucket to its process group (`motet.gradients.reducer_group`), or to a communication
hook, and waits for the result before ``backward()`` returns. `JobGradients` starts the real collective on the job's
lane, keeps its handle, and returns one that is already complete: ``backward()`` returns at once, and the job's turn can
end while its gradients are in flight (ADR 0002, ADR 0015). `JobGradients.wait_synced` is the other half: afterwards
every ``p.grad`` holds what plain DDP would have left there, bit for bit.

Buckets leave in the order in which DDP's reducer hands them over, which is the same on every worker.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket

from motet.errors import UnsupportedError
from motet.gradients.buckets import Bucket, DeferredDDP
from motet.gradients.send_queue import SendQueue
from motet.gradients.transfer import HostTransfer, InFlightBucket, SyncTiming
from motet.timing.clocks import LinkMeter, Stopwatch
from motet.timing.device import DeviceClock, DeviceTransfer, Moment

_SUM = dist.AllreduceOptions()
_SUM.asyncOp = True


class JobGradients:
    """All gradients of one job that are in flight, whichever of its DDP models they belong to.

    ``depth`` counts the job's nested ``backward()`` calls; buckets are deferred only while it is above 0, because
    only then somebody ends the turn. A backward that does not come through the seam waits as under plain DDP.

    ``lane``: the group on which buckets are sent; ``device_lane``: for gradients on a device, where that is another
    one. ``aggregate`` synchronizes a bucket instead of an all-reduce; with ``compress`` they are sent as bfloat16.
    """

    def __init__(
        self,
        job: str,
        stopwatch: Stopwatch,
        link: LinkMeter,
        on_exposed: Callable[[bool], None],
        queue: SendQueue,
        clock: DeviceClock,
        lane: dist.ProcessGroup,
        *,
        device_lane: dist.ProcessGroup | None = None,
        aggregate: Callable[[Tensor], torch.futures.Future[Tensor]] | None = None,
        compress: bool = False,
    ) -> None:
        self.job = job
        self.depth = 0
        self.lane: dist.ProcessGroup | None = lane
        self.device_lane = device_lane
        self.aggregate = aggregate
        self.compress = compress
        self.signature = 0  # runs over (job, turn, buckets); the workers compare it now and then
        self.num_ddp = 0
        self.first_backward: Moment | None = None  # when the job's first one began: until then it only started up
        self._stopwatch = stopwatch
        self._link = link
        self._on_exposed = on_exposed
        self._queue = queue
        self._has_device = False
        self._clock = clock
        self._stream: torch.Stream | None = None  # the one that the job computes in, on a device
        self._in_flight: list[InFlightBucket] = []
        self._turn = SyncTiming()
        self._models: list[DeferredDDP] = []
        self._sent: set[DeferredDDP] = set()

    def backward_over(self) -> None:
        """Note which stream the job computes in; called in the job when its gradients have left."""
        if self._turn.transfers:
            self._stream = torch.accelerator.current_stream(self._clock.device)

    def on_stream(self) -> AbstractContextManager[object]:
        """Act in the job's stream, which need not be the one that is current between turns."""
        return contextlib.nullcontext() if self._stream is None else self._stream

    @property
    def in_flight(self) -> bool:
        """Whether gradients are in flight."""
        return bool(self._in_flight)

    @property
    def aliased(self) -> dict[int, Tensor]:
        """By the parameter's id: gradients in whose place its bucket stands while it is in flight."""
        buckets = [transfer.bucket for transfer in self._in_flight]
        return {
            id(parameter): gradient
            for bucket in buckets
            for parameter, gradient in zip(bucket.parameters, bucket.aliased, strict=False)
            if gradient is not None
        }

    def models_in_flight(self) -> list[DeferredDDP]:
        """Return the DDP models whose gradients left in this turn, in the order in which they were built."""
        return [model for model in self._models if model in self._sent]

    @property
    def models(self) -> list[DeferredDDP]:
        """All DDP models that the job has built."""
        return self._models

    @property
    def transfers(self) -> list[DeviceTransfer]:
        """The buckets of the current turn that go from and to a device."""
        return self._turn.transfers

    @property
    def num_collectives(self) -> int:
        """How many buckets the current turn has sent off."""
        return self._turn.num_collectives

    def attach(self, model: DeferredDDP) -> None:
        """Take note of a DDP model of this job; what it sends comes by `send` or `send_hooked` from now on."""
        self._models.append(model)
        self.num_ddp += 1
        ddp = model.ddp()
        self._has_device = self._has_device or (ddp is not None and not all(p.is_cpu for p in ddp.parameters()))
        if self.compress:
            model.compress()

    def enter_backward(self) -> None:
        """Note that a ``backward()`` begins, maybe inside of another one."""
        self.depth += 1

    def leave_backward(self) -> None:
        """Note that it is over."""
        self.depth -= 1

    def before_backward(self) -> None:
        """Prepare for the outermost ``backward()``."""
        if self.first_backward is None:
            self.first_backward = self._clock.now()
        for model in self._models:
            model.before_backward()

    def send(self, model: DeferredDDP, tensors: list[Tensor], options: Any) -> dist.Work:
        """Synchronize what DDP's reducer asks for: a bucket, scaled already, or which parameters were unused."""
        buffer = tensors[0]
        bucket = None
        if self.depth > 0 and self.lane is not None and buffer.layout == torch.strided:
            bucket = model.bucket_of(buffer)
        if bucket is None:
            if model in self._sent and (buffer.is_floating_point() or buffer.is_complex()):
                self._refuse_a_second_pass()  # after DDP has laid its buckets out anew, in between
            if self.lane is not None:
                self._on_exposed(self.depth == 0)
            return model.group.allreduce(tensors, options)
        if bucket.in_flight:
            self._refuse_a_second_pass()
        if self.aggregate is not None:
            self._keep_future(model, bucket, self.aggregate(buffer))
        else:
            self._keep_sum(model, bucket, buffer)
        return bucket.completed_work()

    def send_hooked(self, model: DeferredDDP, given: GradBucket) -> torch.futures.Future[Tensor]:
        """Synchronize a bucket where a communication hook is needed: a user's, smaller messages, sparse gradients."""
        buffer = given.buffer()
        deferred = self.depth > 0 and self.lane is not None and buffer.layout == torch.strided
        if deferred:
            bucket = model.hooked_bucket(given)
            if given.index() == 0 and model in self._sent:
                self._refuse_a_second_pass()
        if model.user_hook is not None:
            state, hook = model.user_hook
            future = hook(state, given)
            if not deferred:
                return future
            self._keep_future(model, bucket, future)
            return _completed(buffer)
        packed = None if model.packer is None else model.packer.pack(given.index(), buffer, model.world_size)
        payload = model.scaled(buffer) if packed is None else packed
        if deferred and self.aggregate is not None:
            self._keep_future(model, bucket, self.aggregate(payload), payload)
            return _completed(buffer)
        if deferred:
            self._keep_sum(model, bucket, payload)
            return _completed(buffer)
        work = model.group.allreduce([payload], _SUM)
        if self.lane is not None:
            self._on_exposed(self.depth == 0)
        unpacked: torch.futures.Future[Tensor] = work.get_future().then(lambda done: _unpacked(buffer, done.value()[0]))
        return unpacked

    def _refuse_a_second_pass(self) -> NoReturn:
        raise UnsupportedError(
            f"job '{self.job}': a DistributedDataParallel synchronized twice within one backward(), and would "
            "overwrite what is still in flight. Use checkpoint() inside the model rather than around it, or run this "
            "job alone with torchrun."
        )

    def _keep_sum(self, model: DeferredDDP, bucket: Bucket, payload: Tensor) -> None:
        """Sum ``payload`` over all workers: when the link is free, or now if it is on a device (ADR 0020)."""
        lane = self.lane if self.device_lane is None or payload.is_cpu else self.device_lane
        assert lane is not None
        num_bytes, sum_up = _num_bytes(payload), partial(lane.allreduce, [payload], _SUM)
        if not payload.is_cpu:
            work = sum_up()
            self._keep(model, bucket, num_bytes, work.wait, lambda: payload)
            self._follow_on_device(self._in_flight[-1], work.get_future(), payload.device, num_bytes)
            return
        transfer = HostTransfer(self._turn, bucket.done, self._link, self._stopwatch)
        self._keep(model, bucket, num_bytes, transfer.wait, lambda: payload)
        if self._has_device:  # what is sent from a device on this lane does not queue, and may not be passed
            transfer.launch(sum_up, lambda: None)
        else:
            self._queue.send(self.job, num_bytes, partial(transfer.launch, sum_up))

    def _keep_future(
        self, model: DeferredDDP, bucket: Bucket, future: torch.futures.Future[Any], payload: Tensor | None = None
    ) -> None:
        """Take note of a bucket that somebody else synchronizes."""
        num_bytes = bucket.num_bytes if payload is None else _num_bytes(payload)
        self._keep(model, bucket, num_bytes, lambda: _wait_for_hook(future), lambda: _hook_result(future))
        if bucket.buffer.is_cpu:
            HostTransfer(self._turn, bucket.done, self._link, self._stopwatch).follow(future)
        else:
            self._follow_on_device(self._in_flight[-1], future, bucket.buffer.device, num_bytes)

    def _keep(
        self,
        model: DeferredDDP,
        bucket: Bucket,
        num_bytes: int,
        wait: Callable[[], object],
        result: Callable[[], Tensor],
    ) -> None:
        """Take note of a bucket that DDP has handed over."""
        turn = self._turn
        self._sent.add(model)
        turn.handed_over(num_bytes)
        self.signature = zlib.crc32(b"%d.%d" % (turn.num_collectives, num_bytes), self.signature)
        bucket.leave()
        self._in_flight.append(InFlightBucket(bucket, bucket.done, wait, *model.copy_back_of(bucket, result)))

    def _follow_on_device(
        self,
        transfer: InFlightBucket,
        future: torch.futures.Future[Any],
        device: torch.device,
        num_bytes: int,
    ) -> None:
        """Note when a bucket leaves and arrives in the device's time.

        NCCL's future is complete as soon as the collective is in its stream: then a wait orders a stream and holds
        up nobody, and an event behind it shows when the bucket is there. Gloo's is completed by a thread of its own,
        once the sums are on their way back to the device; a wait holds up the host until then.
        """
        self._clock.use(device)
        device_transfer = DeviceTransfer(self._clock.now(), num_bytes)
        self._turn.transfers.append(device_transfer)
        if future.done():
            device_transfer.completed = self._clock.behind(transfer.wait)
            transfer.done.set()
            return

        def arrived(_: object) -> None:
            device_transfer.completed = self._clock.host_now()
            transfer.done.set()

        future.add_done_callback(arrived)

    def wait_synced(self, wait: Callable[[InFlightBucket], None]) -> SyncTiming:
        """Block until all gradients of the turn are synchronized and lie where the optimizer looks for them.

        ``wait`` blocks for one bucket; what it raises leaves the rest in flight. Returns the turn's figures, with what
        a user's hook raised: that is the job's own.
        """
        with torch.no_grad(), self.on_stream():
            for transfer in self._in_flight:
                wait(transfer)
                try:
                    transfer.copy_back()
                except Exception as error:
                    self._turn.failed(error)
                    transfer.drop()
        return self._begin_turn()

    def drain(self, wait: Callable[[InFlightBucket], None]) -> None:
        """Block until nothing is in flight any more, and forget what arrived: the buffers may be freed afterwards."""
        with self.on_stream():
            for transfer in self._in_flight:
                wait(transfer)
                transfer.drop()
        self._begin_turn()

    def close(self) -> None:
        """End the deferral: DDP models that outlive the job synchronize on their own group, waiting as ever."""
        assert not self._in_flight
        self.lane = None
        for model in self._models:
            model.let_go()

    def _begin_turn(self) -> SyncTiming:
        for transfer in self._in_flight:
            transfer.bucket.settle()
        self._in_flight.clear()
        for model in self._sent:
            model.turn_over()
        self._sent.clear()
        turn, self._turn = self._turn, SyncTiming()
        return turn


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _completed(buffer: Tensor) -> torch.futures.Future[Tensor]:
    devices = None if buffer.device.type == "cpu" else [buffer.device]
    future: torch.futures.Future[Tensor] = torch.futures.Future(devices=devices)  # type: ignore[arg-type]
    future.set_result(buffer)
    return future


def _wait_for_hook(future: torch.futures.Future[Any]) -> None:
    """Wait for a user's hook; raise where the network failed. What the hook itself raised comes out later."""
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
