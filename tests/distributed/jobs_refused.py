"""Loops that ask for what cannot be pipelined; each must be refused with a remedy, and harm nobody else."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from tests.distributed.identity import alone, differences, find, seed_everything
from tests.distributed.jobs_plain import batch, net
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.distributed.algorithms.join import Join
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import _apply_optimizer_in_backward
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.nn.parallel.distributed import _MixedPrecision
from torch.utils.checkpoint import checkpoint

from motet.running import run


def _train(ddp: nn.Module) -> None:
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    for _ in range(3):
        x, y = batch()
        optimizer.zero_grad()
        F.cross_entropy(ddp(x), y).backward()
        optimizer.step()


def checkpoint_around() -> None:
    """Reentrant checkpointing around the whole model, twice in a backward: each part synchronizes by itself."""
    _twice_in_a_backward(DDP(nn.Linear(4, 4)))


def checkpoint_around_hook() -> None:
    """The same with a communication hook."""
    ddp = DDP(nn.Linear(4, 4))
    ddp.register_comm_hook(None, default_hooks.allreduce_hook)
    _twice_in_a_backward(ddp)


def _twice_in_a_backward(ddp: nn.Module) -> None:
    x = torch.ones(2, 4, requires_grad=True)
    (checkpoint(ddp, x, use_reentrant=True) + checkpoint(ddp, 2 * x, use_reentrant=True)).sum().backward()


def join() -> None:
    """Uneven inputs by the context manager of the class."""
    ddp = DDP(net())
    with Join([ddp]):
        _train(ddp)


def join_method() -> None:
    """Uneven inputs by DDP's own method, after some steps."""
    ddp = DDP(net())
    _train(ddp)
    with ddp.join():
        _train(ddp)


def fsdp() -> None:
    """A sharded model."""
    _train(FullyShardedDataParallel(net(), device_id=torch.device("cpu")))


def fsdp2() -> None:
    """A sharded model, by the newer function."""
    _train(fully_shard(net()))


def mixed_precision() -> None:
    """DDP's own mixed precision."""
    _train(DDP(net(), mixed_precision=_MixedPrecision(param_dtype=torch.bfloat16)))


def delayed_reduction() -> None:
    """Parameters that DDP reduces outside of its buckets."""
    model = net()
    _train(
        DDP(
            model,
            delay_all_reduce_named_params=[("0.weight", model[0].weight)],
            param_to_hook_all_reduce=model[-1].weight,
        )
    )


def compiled_autograd() -> None:
    """Compiled autograd, asked for before DDP is built."""
    with torch._dynamo.config.patch(compiled_autograd=True):
        _train(DDP(net()))


def python_reducer() -> None:
    """DDP's reducer in Python."""
    with torch._dynamo.config.patch(optimize_ddp="python_reducer"):
        _train(DDP(net()))


def power_sgd() -> None:
    """A hook that starts collectives from callbacks."""
    ddp = DDP(net())
    ddp.register_comm_hook(powerSGD_hook.PowerSGDState(None, 1), powerSGD_hook.powerSGD_hook)
    _train(ddp)


def subgroup() -> None:
    """DDP over some of the workers."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    _train(DDP(net(), process_group=groups[dist.get_rank()]))


def other_backend() -> None:
    """A group that cannot be had here."""
    dist.init_process_group("nccl")
    _train(DDP(net()))


def other_size() -> None:
    """A group of another size."""
    dist.init_process_group("gloo", rank=dist.get_rank(), world_size=dist.get_world_size() + 1)
    _train(DDP(net()))


def other_rank() -> None:
    """A group in which this is another worker."""
    dist.init_process_group(rank=dist.get_rank() + 1, world_size=dist.get_world_size())
    _train(DDP(net()))


def optimizer_in_backward() -> None:
    """An optimizer that steps inside of backward()."""
    model = net()
    _apply_optimizer_in_backward(torch.optim.SGD, model.parameters(), {"lr": 0.1})
    _train(DDP(model))


def fused_optimizer() -> None:
    """The same through DDP."""
    ddp = DDP(net())
    ddp._register_fused_optim(torch.optim.SGD, lr=0.1)
    _train(ddp)


def spawn() -> None:
    """A script that starts its workers itself."""
    torch.multiprocessing.spawn(print, nprocs=2)


def start_processes() -> None:
    """The same by the function below it."""
    torch.multiprocessing.start_processes(print, nprocs=2, start_method="fork")


def bad_hook() -> None:
    """A hook whose future holds something that is no tensor."""
    ddp = DDP(net())

    def hook(state, bucket):  # type: ignore[no-untyped-def]
        future = torch.futures.Future()
        future.set_result("no tensor")
        return future

    ddp.register_comm_hook(None, hook)
    _train(ddp)


def no_ddp() -> float:
    """A loop without DDP: not refused, but the user is told."""
    model = net()
    _train(model)
    return float(sum(p.detach().sum() for p in model.parameters()))


def beside_another(name: str) -> dict[str, Any]:
    """Run a loop between others; tell how it ended and where the others differ from what they are alone."""
    others = {"one": "jobs_plain:several_buckets", "two": "jobs_buffers:every_moment"}
    expected = {job: alone(loop) for job, loop in others.items()}
    seed_everything()
    jobs = {"one": find(others["one"]), "asking": find(f"jobs_refused:{name}"), "two": find(others["two"])}
    results = run(jobs)
    return {
        "status": {job: results[job].status for job in jobs},
        "error": results["asking"].error,
        "notices": list(results.notices),
        "differences": [f for job in others for f in differences(results[job].result, expected[job], job)],
    }
