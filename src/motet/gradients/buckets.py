"""DDP's buckets: which gradients lie in which, and how a bucket that has arrived gets to where DDP leaves it.

One `DeferredDDP` for each ``DistributedDataParallel`` of a job; it knows the model's `Bucket`\\ s, each for as long as
it lies in the same memory (DDP lays them out anew after the first iteration).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch._prims_common import is_non_overlapping_and_dense_or_false
from torch.nn.parallel import DistributedDataParallel

from motet.gradients.compression import Packer, may_be_smaller
from motet.gradients.reducer_group import ReducerGroup, completed_work
from motet.torch_versions import BATCHED_GRAD_COPY, LAZY_BUCKETS, MANUAL_FINALIZATION

Hook = Callable[[Any, GradBucket], "torch.futures.Future[Tensor]"]
CopyBack = tuple[Callable[[], None], Callable[[], None]]
"""What brings a synchronized bucket to where plain DDP leaves it, and what gives it up."""
MIN_ALIAS_BYTES = 64 * 1024  # a parameter: below, binding its gradient twice costs more than the copy


@dataclass(slots=True, eq=False)
class Bucket:
    """One bucket, as long as it lies in the same memory. It is sent once a turn: ``done`` is set when it is there."""

    buffer: Tensor
    parameters: list[Tensor]
    views: list[Tensor]  # of the buffer, one a parameter
    num_bytes: int
    worth_aliasing: bool
    done: threading.Event = field(default_factory=threading.Event)
    answer: dist.Work | None = None  # a collective that is over, on the CPU
    in_flight: bool = False
    aliased: Sequence[Tensor | None] = ()  # the gradients in whose place it stands meanwhile

    @classmethod
    def of(cls, buffer: Tensor, parameters: list[Tensor]) -> Bucket:
        """Return a bucket that holds the gradients of ``parameters`` in ``buffer``."""
        num_bytes = buffer.numel() * buffer.element_size()
        worth_aliasing = num_bytes >= MIN_ALIAS_BYTES * len(parameters)
        return cls(buffer, parameters, split_bucket(buffer, parameters), num_bytes, worth_aliasing)

    def leave(self) -> None:
        """Note that the bucket is in flight."""
        self.in_flight = True

    def settle(self) -> None:
        """Note that nothing of the bucket is in flight any more: it may be sent again."""
        self.done.clear()
        self.in_flight = False

    def completed_work(self) -> dist.Work:
        """Return a completed collective of the bucket: the same one each time, where it remembers no moment."""
        if not self.buffer.is_cpu:
            return completed_work(self.buffer)
        if self.answer is None:
            self.answer = completed_work(self.buffer)
        return self.answer


@dataclass(slots=True, eq=False)
class DeferredDDP:
    """What is known of one ``DistributedDataParallel`` of a job. Does not keep it alive."""

    group: dist.ProcessGroup
    world_size: int
    ddp: weakref.ref[DistributedDataParallel]
    gradient_as_bucket_view: bool = False
    may_skip_parameters: bool = False
    batched_grad_copy: bool = False
    may_be_smaller: bool = False  # in bfloat16
    lazy_buckets: bool = False  # they lie elsewhere in each backward, and nowhere in between
    has_sparse: bool = False  # its reducer does not know what its buckets hold
    reducer_group: ReducerGroup | None = None  # DDP's reducer refers to it without keeping it alive
    user_hook: tuple[Any, Hook] | None = None  # its state, and the hook
    packer: Packer | None = None  # gradients are sent as bfloat16
    hooked: bool = False  # a communication hook hands the buckets over
    _layout: list[list[Tensor]] = field(default_factory=list)  # the buckets' parameters
    _rebuilt: bool = False
    _num_met: int = 0  # buckets met for the first time in this backward
    _by_address: dict[int, Bucket] = field(default_factory=dict)

    def learn(self, ddp: DistributedDataParallel, *, static_graph: bool) -> None:
        """Take note of how ``ddp``, now that it is built, treats its buckets."""
        self.gradient_as_bucket_view = ddp.gradient_as_bucket_view
        self.may_skip_parameters = ddp.find_unused_parameters or static_graph
        self.batched_grad_copy = BATCHED_GRAD_COPY.there and ddp.batched_grad_copy
        self.lazy_buckets = LAZY_BUCKETS.there and bool(ddp.lazy_bucket_allocation)
        self.may_be_smaller = may_be_smaller(ddp.parameters())
        weakref.finalize(ddp, self.let_go).atexit = False

    def send_through(self, group: ReducerGroup) -> None:
        """Note to which group its reducer hands the buckets."""
        self.reducer_group = group

    def hook(self) -> bool:
        """Note that a communication hook hands the buckets over; returns whether that is new."""
        new, self.hooked = not self.hooked, True
        return new

    def take_hook(self, state: Any, hook: Hook) -> None:
        """Note a user's communication hook, which runs inside ours."""
        self.user_hook = (state, hook)

    def compress(self) -> None:
        """Have its gradients sent as bfloat16, if they may be."""
        if self.may_be_smaller:
            self.packer = Packer()

    def before_backward(self) -> None:
        """Learn what DDP's buckets hold, if it has laid them out anew. Its reducer cannot be asked during backward."""
        self._num_met = 0
        ddp = self.ddp()
        if (
            ddp is None
            or self.hooked
            or self.has_sparse
            or (self._layout and self._rebuilt == ddp._has_rebuilt_buckets)
        ):
            return
        self._rebuilt = ddp._has_rebuilt_buckets
        self._layout = [bucket.parameters() for bucket in ddp.reducer._get_zeros_like_grad_buckets()]
        self._by_address.clear()

    def bucket_of(self, buffer: Tensor) -> Bucket | None:
        """Return the bucket that lies in ``buffer``; DDP reduces them in their order. None if it is none."""
        known = self._by_address.get(buffer.data_ptr())
        if known is not None:
            return known
        if self._num_met == len(self._layout):
            return None
        parameters = self._layout[self._num_met]
        if buffer.dtype not in (parameters[0].dtype, parameters[0].dtype.to_real()):
            return None  # it holds which parameters were used
        self._num_met += 1
        bucket = self._by_address[buffer.data_ptr()] = Bucket.of(buffer, parameters)
        return bucket

    def hooked_bucket(self, given: GradBucket) -> Bucket:
        """Return the bucket that a communication hook was given."""
        buffer = given.buffer()
        known = self._by_address.get(buffer.data_ptr())
        if known is None:
            known = self._by_address[buffer.data_ptr()] = Bucket.of(buffer, given.parameters())
        return known

    def scaled(self, buffer: Tensor) -> Tensor:
        """Do to a bucket what DDP's reducer does to it when it has no hook."""
        if buffer.layout != torch.strided or self.batched_grad_copy:
            return buffer.div_(self.world_size)
        return buffer.mul_(1.0 / self.world_size)

    def copy_back_of(self, bucket: Bucket, result: Callable[[], Tensor]) -> CopyBack:
        """Return what brings the synchronized bucket to where plain DDP leaves it, and what gives it up."""
        buffer, parameters, views = bucket.buffer, bucket.parameters, bucket.views
        ddp = self.ddp()
        if MANUAL_FINALIZATION.there and ddp is not None and ddp.require_manual_backward_finalization:
            result = partial(_left_in_bucket, buffer, result)  # from where DDP takes the gradients later
        if self.gradient_as_bucket_view:
            return lambda: _copy_unless_same(buffer, result()), _nothing  # the gradients are the bucket
        before = [(p.grad, _version(p.grad)) for p in parameters] if self.may_skip_parameters else None
        if before is None and bucket.worth_aliasing and not self.batched_grad_copy:
            return _alias_gradients(bucket, result)

        def into_gradients() -> None:
            synced = result()
            sources = views if synced is buffer else split_bucket(synced, parameters)
            targets: Sequence[Tensor | None] = [p.grad for p in parameters]
            if before is not None:
                # DDP has touched exactly the gradients of parameters that some worker used: leave the others as well.
                used = [t is not g or _version(t) != v for t, (g, v) in zip(targets, before, strict=True)]
                targets = list(compress(targets, used))
                sources = list(compress(sources, used))
            if targets:  # no worker may have used any parameter of this bucket
                torch._foreach_copy_(targets, sources)  # type: ignore[arg-type]

        return into_gradients, _nothing

    def turn_over(self) -> None:
        """Let go of what does not outlast a turn: all that was sent has arrived, or been given up."""
        if self.lazy_buckets:
            self._by_address.clear()

    def let_go(self) -> None:
        """Let go of the model's buckets: it is gone, or its job has ended."""
        if self.packer is not None:
            self.packer.clear()
        self._by_address.clear()
        self._layout.clear()


def _alias_gradients(bucket: Bucket, result: Callable[[], Tensor]) -> CopyBack:
    """Let DDP find its bucket where the gradients were, until the synchronized ones are copied there.

    DDP copies every bucket into the gradients before ``backward()`` returns: here as it left, which is of no use to
    anybody. A tensor that is copied onto itself costs nothing (ADR 0012).
    """
    buffer, parameters, views = bucket.buffer, bucket.parameters, bucket.views
    gradients = bucket.aliased = [p.grad for p in parameters]
    for parameter, view in zip(parameters, views, strict=True):
        parameter.grad = view

    def restore() -> None:
        bucket.aliased = ()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    def into_gradients() -> None:
        synced = result()
        restore()
        sources = views if synced is buffer else split_bucket(synced, parameters)
        torch._foreach_copy_(gradients, sources)  # type: ignore[arg-type]

    return into_gradients, restore


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


def _copy_unless_same(target: Tensor, source: Tensor) -> None:
    if source.data_ptr() != target.data_ptr():
        target.copy_(source.view_as(target))


def _left_in_bucket(buffer: Tensor, result: Callable[[], Tensor]) -> Tensor:
    _copy_unless_same(buffer, result())
    return buffer


def _version(tensor: Tensor | None) -> int:
    return -1 if tensor is None else tensor._version
