"""Ordinary DDP training loops that do something with gradients, or with backward() itself."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.identity import Record
from tests.distributed.jobs_plain import SMALL_BUCKETS, STEPS, batch, net, train
from torch import Tensor, nn
from torch.autograd import backward
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel as DDP

WIDE = 512  # a megabyte a layer


def surgery(detach: bool = False, bucket_view: bool = False, width: int = 40) -> Record:
    """Gradients of two tasks, kept across backwards and projected onto each other where they conflict."""
    ddp = DDP(net(width), bucket_cap_mb=SMALL_BUCKETS, gradient_as_bucket_view=bucket_view)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    parameters = list(ddp.parameters())
    record = Record()
    for _ in range(STEPS):
        kept: list[list[Tensor]] = []
        for _ in range(2):
            x, y = batch()
            loss = F.cross_entropy(ddp(x), y)
            loss.backward()
            gradients = []
            for parameter in parameters:
                assert parameter.grad is not None
                if detach:
                    parameter.grad.detach_()
                gradients.append(parameter.grad)
                parameter.grad = None
            kept.append(gradients)
            record.look(loss, *gradients)
        one, two = (torch.cat([g.flatten() for g in gradients]) for gradients in kept)
        record.look(one, two)
        if (product := one @ two) < 0:
            one = one - product / (two @ two) * two
        for parameter, gradient in zip(parameters, one.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter).clone()
        optimizer.step()
        optimizer.zero_grad()
    return record.ended(ddp, optimizer)


def surgery_detached() -> Record:
    """The same, with gradients detached in place, which DDP allows where they are no views."""
    return surgery(detach=True)


def surgery_bucket_view() -> Record:
    """The same with views of the buckets, where what is kept is overwritten: as under plain DDP."""
    return surgery(bucket_view=True)


def surgery_wide() -> Record:
    """The same with layers so wide that their buckets stand in place of the gradients."""
    return surgery(width=WIDE)


def accumulation_wide() -> Record:
    """Gradients that accumulate over two backwards, in tensors that stay, in layers as wide."""
    ddp = DDP(net(WIDE))
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.01, momentum=0.9)
    record, held = Record(), []
    for step in range(STEPS):
        x, y = batch()
        with ddp.no_sync() if step % 2 else contextlib.nullcontext():
            loss = F.cross_entropy(ddp(x), y)
            loss.backward()
        gradients = [p.grad for p in ddp.parameters()]
        assert not held or all(a is b for a, b in zip(gradients, held, strict=True)), "the same tensors stay"
        held = gradients
        record.look(loss, *gradients)
        if not step % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
    return record.ended(ddp, optimizer)


def bucket_view(set_to_none: bool = False) -> Record:
    """Gradients that are views of the buckets."""
    ddp = DDP(net(depth=3), gradient_as_bucket_view=True, bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    record = Record()
    for step in range(STEPS + 2):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        optimizer.zero_grad(set_to_none=set_to_none)
        loss.backward()
        record.look(loss, *(p.grad for p in ddp.parameters()))
        optimizer.step()
        if step == 3:
            ddp.zero_grad(set_to_none=not set_to_none)
    return record.ended(ddp, optimizer)


def bucket_view_none() -> Record:
    """The same, with gradients set to None between the steps."""
    return bucket_view(set_to_none=True)


def bucket_view_mixed() -> Record:
    """Views for some parameters, None for others, and gradients that accumulate into views."""
    ddp = DDP(net(depth=3), gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for step in range(STEPS + 2):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        for number, parameter in enumerate(ddp.parameters()):
            if (number + step) % 3 == 0:
                parameter.grad = None
            elif (number + step) % 3 == 1 and parameter.grad is not None:
                parameter.grad.zero_()
        loss.backward()
        record.look(loss, *(p.grad for p in ddp.parameters()))
        optimizer.step()
    return record.ended(ddp, optimizer)


def bucket_view_accumulation() -> Record:
    """Views, and no_sync()."""
    ddp = DDP(net(), gradient_as_bucket_view=True, bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for step in range(STEPS):
        with ddp.no_sync():
            x, y = batch()
            F.cross_entropy(ddp(x), y).backward()
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        loss.backward()
        record.look(loss, *(p.grad for p in ddp.parameters()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=step % 2 == 0)
    return record.ended(ddp, optimizer)


def batched_grad_copy() -> Record:
    """DDP that copies a bucket's gradients together."""
    ddp = DDP(net(depth=3), batched_grad_copy=True, bucket_cap_mb=SMALL_BUCKETS)
    return train(ddp, torch.optim.Adam(ddp.parameters()), Record())


def batched_grad_copy_accumulation() -> Record:
    """The same with no_sync() and gradients that are kept."""
    ddp = DDP(net(depth=3), batched_grad_copy=True)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for step in range(STEPS):
        with ddp.no_sync():
            F.cross_entropy(ddp(batch()[0]), batch()[1]).backward()
        loss = F.cross_entropy(ddp(batch()[0]), batch()[1])
        loss.backward()
        record.look(loss, *(p.grad for p in ddp.parameters()))
        optimizer.step()
        if step % 2:
            optimizer.zero_grad(set_to_none=False)
    return record.ended(ddp, optimizer)


def own_hook() -> Record:
    """A hook of the user's own: a lambda with a state that it changes."""
    ddp = DDP(net(depth=3), bucket_cap_mb=SMALL_BUCKETS)
    seen: list[int] = []

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
        state.append(bucket.buffer().numel())
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0] / (2 * dist.get_world_size()))

    ddp.register_comm_hook(seen, hook)
    record = train(ddp, torch.optim.Adam(ddp.parameters()), Record())
    record.look(seen)
    return record


def noop_hook() -> Record:
    """A hook that synchronizes nothing, as local SGD has it."""
    ddp = DDP(net())

    def hook(state, bucket):  # type: ignore[no-untyped-def]
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    ddp.register_comm_hook(None, hook)
    return train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), Record())


def _with_hook(hook: Any, **options: Any) -> Record:
    ddp = DDP(net(depth=3), bucket_cap_mb=SMALL_BUCKETS, **options)
    ddp.register_comm_hook(None, hook)
    return train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), Record())


def fp16_hook() -> Record:
    """Compression to half precision."""
    return _with_hook(default_hooks.fp16_compress_hook)


def fp16_hook_bucket_view() -> Record:
    """The same with views of the buckets."""
    return _with_hook(default_hooks.fp16_compress_hook, gradient_as_bucket_view=True)


def wrapped_hook() -> Record:
    """A hook around another."""
    return _with_hook(default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook))


def allreduce_hook() -> Record:
    """What DDP itself does, as a hook."""
    return _with_hook(default_hooks.allreduce_hook)


def builtin_hook(kind: dist.BuiltinCommHookType = dist.BuiltinCommHookType.ALLREDUCE) -> Record:
    """torch's built-in hook, which is C++."""
    ddp = DDP(net(depth=3), bucket_cap_mb=SMALL_BUCKETS)
    ddp._register_builtin_comm_hook(kind)
    return train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), Record())


def builtin_fp16_hook() -> Record:
    """The other one."""
    return builtin_hook(dist.BuiltinCommHookType.FP16_COMPRESS)


def early_binding() -> Record:
    """A loop that imported backward by name, before the run."""
    ddp = DDP(net())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        losses = [F.cross_entropy(ddp(x), y)]
        optimizer.zero_grad()
        backward(losses, inputs=list(ddp.parameters()))
        optimizer.step()
        record.look(*losses)
    return record.ended(ddp, optimizer)


def closure(kind: str = "SGD") -> Record:
    """backward() inside of optimizer.step()."""
    ddp = DDP(net())
    optimizer: torch.optim.Optimizer
    if kind == "SGD":
        optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    else:
        optimizer = torch.optim.LBFGS(ddp.parameters(), lr=0.1, max_iter=3, history_size=4)
    record = Record()
    for _ in range(STEPS):
        x, y = batch()

        def compute(x: Tensor = x, y: Tensor = y) -> float:
            optimizer.zero_grad()
            loss = F.cross_entropy(ddp(x), y)
            loss.backward()
            return float(loss)

        record.look(optimizer.step(compute))
    return record.ended(ddp, optimizer)


def closure_lbfgs() -> Record:
    """Several backwards in one step, with one worker's batch each; all stop after equally many."""
    return closure("LBFGS")


def gradient_penalty() -> Record:
    """A gradient of a gradient: the penalty of a Wasserstein critic."""
    ddp = DDP(net(outputs=1), bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.Adam(ddp.parameters())
    record = Record()
    for _ in range(STEPS):
        x = torch.randn(12, 10, requires_grad=True)
        score = ddp(x)
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        loss = score.mean() + (slope.norm(dim=1) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(loss, slope)
    return record.ended(ddp, optimizer)


def tensor_hooks() -> Record:
    """Hooks on tensors and parameters, which see this worker's gradients."""
    ddp = DDP(net(), bucket_cap_mb=SMALL_BUCKETS)
    record = Record()
    for parameter in ddp.parameters():
        parameter.register_hook(lambda g: g * 0.5)
        parameter.register_post_accumulate_grad_hook(lambda p: record.look(p.grad))
    return train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), record)


def retained_graph() -> Record:
    """Two backwards over one graph, the first under no_sync()."""
    ddp = DDP(net())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        optimizer.zero_grad()
        with ddp.no_sync():
            logits = ddp(x)
            F.cross_entropy(logits, y).backward(retain_graph=True)
        logits = ddp(x)
        loss = F.cross_entropy(logits, y) + logits.square().mean()
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(ddp, optimizer)


def around_the_seam(every: int = 1) -> Record:
    """A backward straight into torch's engine, past torch.autograd.backward; every so many steps the usual one."""
    ddp = DDP(net(), bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    engine: Any = torch.autograd.Variable._execution_engine
    record = Record()
    for step in range(STEPS):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        optimizer.zero_grad()
        if step % every == 0:
            engine.run_backward(
                (loss,), (torch.ones(()),), False, False, (), allow_unreachable=True, accumulate_grad=True
            )
        else:
            loss.backward()
        record.look(loss, *(p.grad for p in ddp.parameters()))
        optimizer.step()
    return record.ended(ddp, optimizer)


def around_the_seam_at_times() -> Record:
    """The two by turns."""
    return around_the_seam(every=2)


def on_another_thread() -> Record:
    """backward() called from a thread of the loop's own."""
    ddp = DDP(net())
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        optimizer.zero_grad()
        thread = threading.Thread(target=loss.backward)
        thread.start()
        thread.join()
        record.look(loss, *(p.grad for p in ddp.parameters()))
        optimizer.step()
    return record.ended(ddp, optimizer)


def nothing_to_synchronize() -> Record:
    """Backwards that never touch DDP, between those that do."""
    ddp, local = DDP(net()), nn.Linear(10, 3)
    optimizer = torch.optim.SGD([*ddp.parameters(), *local.parameters()], lr=0.1)
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        optimizer.zero_grad()
        F.cross_entropy(local(x), y).backward()
        loss = F.cross_entropy(ddp(x), y)
        loss.backward()
        optimizer.step()
        record.look(loss)
    return record.ended(ddp, local, optimizer)
