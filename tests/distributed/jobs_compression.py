"""Loops for the tests of smaller messages, and the same arithmetic as a communication hook under plain DDP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from tests.distributed.identity import Record, differences, run_alone, seed_everything
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from motet.errors import UsageError
from motet.events import Event, SyncEnded
from motet.gradients.aggregation.lane import Lane
from motet.jobs import Job
from motet.running import run

STEPS = 6


def bf16_hook(group, bucket):  # type: ignore[no-untyped-def]  # DDP does not understand annotations that are text
    """Do what torch's bf16_compress_hook does, which DDP refuses on the CPU."""
    packed = bucket.buffer().to(torch.bfloat16).div_(dist.get_world_size())
    future = dist.all_reduce(packed, group=group, async_op=True).get_future()  # type: ignore[union-attr]
    return future.then(lambda done: bucket.buffer().copy_(done.value()[0]))


def loop(hook: bool, kind: str = "plain", dtype: torch.dtype = torch.float32) -> Record:
    """Train a net; with ``hook``, compress its gradients as plain DDP's users do."""
    record = Record()
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(40, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 1000), nn.Linear(1000, 3))
    options: dict[str, Any] = {"bucket_cap_mb": 0.1, "gradient_as_bucket_view": kind == "bucket view"}
    ddp = DistributedDataParallel(model.to(dtype), **options)
    if hook:
        ddp.register_comm_hook(None, bf16_hook)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=0.01)
    by_hand: Any = ddp if kind == "by hand" else None  # from torch 2.15 on
    if by_hand:
        by_hand.require_manual_backward_finalization = True
    for step in range(STEPS):
        x, y = torch.randn(8, 40, dtype=dtype), torch.randint(3, (8,))
        if kind == "accumulation":
            with ddp.no_sync():
                nn.functional.cross_entropy(ddp(x), y).backward()
        loss = nn.functional.cross_entropy(ddp(x), y)
        if kind == "around the seam" and step % 2:
            torch.autograd.variable.Variable._execution_engine.run_backward(
                (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
            )
        else:
            loss.backward()
        if by_hand:
            by_hand.finalize_backward()
        record.look(loss)
        optimizer.step()
        optimizer.zero_grad()
    return record.ended(ddp, optimizer)


class Bytes:
    """An observer that adds up what was sent, by job."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}

    def observe(self, event: Event) -> None:
        if isinstance(event, SyncEnded):
            self.sent[event.job] = self.sent.get(event.job, 0) + event.num_bytes


def must_equal_the_hook(kind: str, dtype: str = "float32", **options: Any) -> dict[str, int]:
    """Compress one job of two; require each to end as alone, the one with the hook. Returns the bytes of each."""
    call = partial(loop, kind=kind, dtype=getattr(torch, dtype))
    with_hook, without = run_alone(partial(call, hook=True)), run_alone(partial(call, hook=False))
    assert differences(with_hook, without), "compression changed nothing: the test would pass without it"
    observer = Bytes()
    seed_everything()
    jobs = [Job("small", partial(call, hook=False), compress="bf16"), Job("plain", partial(call, hook=False))]
    aggregated: list[torch.dtype] = []
    send = Lane.send

    def sent(self: Lane, bucket: Tensor, aggregators: Sequence[int]) -> Any:
        aggregated.append(bucket.dtype)
        return send(self, bucket, aggregators)

    with mock.patch.object(Lane, "send", sent):
        results = run(jobs, observers=[observer], **options)
    assert set(aggregated) == ({torch.bfloat16, torch.float32} if options.get("sync") == "aggregate" else set())
    for name, expected in (("small", with_hook), ("plain", without)):
        assert results[name].status == "finished", results[name].error
        found = differences(results[name].result, expected, name)
        assert not found, "\n".join(found[:10])
    return observer.sent


def what_the_run_says() -> dict[str, int]:
    """Run three jobs where the run says bf16; one says none, and one has a hook of its own (of the same arithmetic)."""
    observer = Bytes()
    seed_everything()
    jobs = [
        Job("as-run", partial(loop, hook=False)),
        Job("otherwise", partial(loop, hook=False), compress="none"),
        Job("own-hook", partial(loop, hook=True)),
    ]
    results = run(jobs, observers=[observer], compress="bf16")
    assert any("own-hook" in notice and "compress" in notice for notice in results.notices), results.notices
    found = differences(results["own-hook"].result, results["as-run"].result)
    assert not found, found[:10]
    return observer.sent


def refusal(make: Callable[[], object]) -> str:
    """Return the message of the `UsageError` that comes of something."""
    try:
        make()
    except UsageError as error:
        return str(error)
    return "nothing was refused"


def unknown_compression() -> str:
    """Ask for a compression that there is not."""
    return refusal(lambda: run({"a": lambda: None}, compress="bf61"))  # type: ignore[arg-type]
