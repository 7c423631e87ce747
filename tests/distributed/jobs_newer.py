"""Ordinary DDP training loops with options that DDP has since torch 2.15."""

from __future__ import annotations

import gc
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.identity import Record
from tests.distributed.jobs_models import SMALLER_BUCKETS, Branches, train_branches
from tests.distributed.jobs_plain import SMALL_BUCKETS, STEPS, batch, companion, net, train
from torch.nn.parallel import DistributedDataParallel as DDP

from motet.gradients.buckets import Bucket
from motet.running import run


def lazy_model(**options: Any) -> DDP:
    """Return a model of several buckets, each of which DDP allocates when its first gradient is there."""
    return DDP(net(depth=3), bucket_cap_mb=SMALL_BUCKETS, lazy_bucket_allocation=True, **options)


def lazy_buckets() -> Record:
    ddp = lazy_model()
    return train(ddp, torch.optim.Adam(ddp.parameters()), Record())


def lazy_buckets_batched() -> Record:
    """With a bucket's gradients copied together."""
    ddp = lazy_model(batched_grad_copy=True)
    return train(ddp, torch.optim.Adam(ddp.parameters()), Record())


def lazy_buckets_view() -> Record:
    """With gradients that are views of buckets."""
    ddp = lazy_model(gradient_as_bucket_view=True)
    return train(ddp, torch.optim.Adam(ddp.parameters()), Record())


def lazy_buckets_hook() -> Record:
    """With a communication hook of the user's."""
    ddp = lazy_model()

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0] / (3 * dist.get_world_size()))

    ddp.register_comm_hook(None, hook)
    return train(ddp, torch.optim.SGD(ddp.parameters(), lr=0.1), Record())


def lazy_buckets_unused() -> Record:
    """With buckets whose parameters are not used in every step."""
    ddp = DDP(Branches(), find_unused_parameters=True, lazy_bucket_allocation=True, bucket_cap_mb=SMALLER_BUCKETS)
    return train_branches(ddp, [[0], [0, 1], [2], [1], [0, 1, 2], [1]])


def lazy_buckets_accumulation() -> Record:
    """With no_sync() and gradients that are kept."""
    ddp = lazy_model()
    return _accumulated(ddp)


def manual_finalization() -> Record:
    """Gradients are waited for when the loop says so, after backward."""
    ddp = DDP(net(depth=3), bucket_cap_mb=SMALL_BUCKETS)
    return _finalized_by_hand(ddp, Record())


def manual_finalization_view() -> Record:
    """With gradients that are views of buckets."""
    ddp = DDP(net(depth=3), bucket_cap_mb=SMALL_BUCKETS, gradient_as_bucket_view=True)
    return _finalized_by_hand(ddp, Record())


def manual_finalization_lazy() -> Record:
    """With buckets that are allocated late."""
    return _finalized_by_hand(lazy_model(), Record())


def manual_finalization_hook() -> Record:
    """With a communication hook whose result lies elsewhere than the bucket."""
    ddp = DDP(net(depth=3), bucket_cap_mb=SMALL_BUCKETS)

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are strings
        work = dist.all_reduce(bucket.buffer().clone(), async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0] / (3 * dist.get_world_size()))

    ddp.register_comm_hook(None, hook)
    return _finalized_by_hand(ddp, Record())


def finalized_inside_backward() -> None:
    """DDP finalizes from a hook, when its gradients were not sent under Motet; to be refused."""
    ddp = DDP(net())
    ddp.require_manual_backward_finalization = True  # type: ignore[assignment]  # a property, of torch 2.15
    for _ in range(3):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        if not ddp.should_finalize_after_backward:
            first = next(ddp.parameters())
            hook = first.register_post_accumulate_grad_hook(lambda _: ddp.finalize_backward())  # type: ignore[operator]
        loss.backward()
        if ddp.should_finalize_after_backward:
            ddp.finalize_backward()  # type: ignore[operator]
    hook.remove()


def num_buckets_kept() -> list[int]:
    """Return how many of its buckets are in memory after each step of a loop, where DDP lets go of them."""
    ddp, record, kept = lazy_model(), Record(), []
    optimizer = torch.optim.Adam(ddp.parameters())
    for _ in range(STEPS):
        train(ddp, optimizer, record, steps=1)
        optimizer.zero_grad()
        kept.append(sum(type(each) is Bucket for each in gc.get_objects()))
    return kept


def kept_by_job() -> dict[str, Any]:
    results = run({"one": num_buckets_kept, "two": companion})
    return {"status": results["one"].status, "kept": results["one"].result}


def refused_by_job() -> dict[str, Any]:
    results = run({"one": finalized_inside_backward, "two": companion})
    return {"status": {name: job.status for name, job in results.jobs.items()}, "error": results["one"].error}


def _accumulated(ddp: DDP) -> Record:
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    record = Record()
    for _ in range(STEPS):
        with ddp.no_sync():
            F.cross_entropy(ddp(batch()[0]), batch()[1]).backward()
        loss = F.cross_entropy(ddp(batch()[0]), batch()[1])
        loss.backward()
        record.look(loss, *(p.grad for p in ddp.parameters()))
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return record.ended(ddp, optimizer)


def _finalized_by_hand(ddp: DDP, record: Record) -> Record:
    ddp.require_manual_backward_finalization = True  # type: ignore[assignment]  # a property, of torch 2.15
    optimizer = torch.optim.Adam(ddp.parameters())
    for _ in range(STEPS):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        optimizer.zero_grad()
        loss.backward()
        ddp.finalize_backward()  # type: ignore[operator]
        optimizer.step()
        record.look(loss)
    return record.ended(ddp, optimizer)
