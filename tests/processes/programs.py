"""Training programs of kinds that only a process of its own can run unmodified: ``programs.py KIND --out FILE``.

Each trains a small model for a few steps and saves what all workers' parameters are in the end, one file a worker.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

STEPS = 8


def model() -> nn.Sequential:
    """Return the same model on every worker."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4))
    torch.manual_seed(100 + dist.get_rank())
    return made


def batches(num: int = STEPS) -> Iterator[torch.Tensor]:
    """Yield this worker's batches."""
    for _ in range(num):
        yield torch.randn(8, 16)


def ddp_steps(net: nn.Module, optimizer: torch.optim.Optimizer, num: int = STEPS) -> None:
    """Take ordinary steps."""
    for batch in batches(num):
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()


def fsdp2() -> object:
    """Shard a model: it gathers in forward and backward, and scatters in backward."""
    from torch.distributed.fsdp import fully_shard

    net = model()
    for layer in net:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=dist.init_device_mesh("cpu", (dist.get_world_size(),)))
    fully_shard(net, mesh=dist.init_device_mesh("cpu", (dist.get_world_size(),)))
    ddp_steps(net, torch.optim.AdamW(net.parameters(), lr=0.1))
    return [parameter.full_tensor() for parameter in net.parameters()]


def replicate() -> object:
    """Use the composable form of DDP."""
    from torch.distributed._composable.replicate import replicate as composable

    net = model()
    composable(net)
    ddp_steps(net, torch.optim.SGD(net.parameters(), lr=0.1))
    return list(net.parameters())


def zero() -> object:
    """Shard the optimizer's state: it broadcasts parameters in its step."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    net = DistributedDataParallel(model())
    ddp_steps(net, ZeroRedundancyOptimizer(net.parameters(), torch.optim.AdamW, lr=0.1))
    return list(net.parameters())


def post_local_sgd() -> object:
    """Average parameters every other step, in the optimizer."""
    from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
    from torch.distributed.optim import PostLocalSGDOptimizer

    net = DistributedDataParallel(model())
    state = PostLocalSGDState(process_group=None, subgroup=dist.new_group(), start_localSGD_iter=2)
    net.register_comm_hook(state, post_localSGD_hook)
    local = torch.optim.SGD(net.parameters(), lr=0.1)
    ddp_steps(net, PostLocalSGDOptimizer(local, PeriodicModelAverager(period=2, warmup_steps=2)))
    return list(net.parameters())


def tensor_parallel() -> object:
    """Split layers over the workers."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    net = model()
    mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),))
    torch.manual_seed(7)  # the same batches on all
    parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    ddp_steps(net, torch.optim.SGD(net.parameters(), lr=0.1))
    return [p.full_tensor() if hasattr(p, "full_tensor") else p for p in net.parameters()]


def diloco() -> object:
    """Take local steps, and now and then an outer one with what all workers have changed."""
    net, outer = model(), model()
    outer_optimizer = torch.optim.SGD(outer.parameters(), lr=0.7, momentum=0.9, nesterov=True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    for _ in range(4):
        ddp_steps(net, optimizer, 3)
        for far, near in zip(outer.parameters(), net.parameters(), strict=True):
            far.grad = far.detach() - near.detach()
            dist.all_reduce(far.grad)
            far.grad /= dist.get_world_size()
        outer_optimizer.step()
        net.load_state_dict(outer.state_dict())
    return list(net.parameters())


def by_hand(wait_later: bool = False) -> object:
    """Average gradients by hand: one blocking all-reduce a parameter, or all at once, waited for later."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for batch in batches():
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        works = [dist.all_reduce(p.grad, async_op=wait_later) for p in net.parameters()]
        for work in works if wait_later else ():
            work.wait()
        for parameter in net.parameters():
            parameter.grad /= dist.get_world_size()
        optimizer.step()
    return list(net.parameters())


def by_hand_async() -> object:
    """Start all all-reduces, and then wait."""
    return by_hand(wait_later=True)


class Gathering(torch.optim.SGD):
    """Gathers every worker's gradients in its step, and takes their median."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                gathered = [torch.empty_like(parameter.grad) for _ in range(dist.get_world_size())]
                dist.all_gather(gathered, parameter.grad)
                parameter.grad = torch.stack(gathered).median(0).values
        return super().step(closure)


def gathers_in_step() -> object:
    """Train with an optimizer that gathers in its step."""
    net = model()
    ddp_steps(net, Gathering(net.parameters(), lr=0.1))
    return list(net.parameters())


def _spawned(index: int, out: str) -> None:
    torch.manual_seed(index)
    net = nn.Linear(4, 4)
    for _ in range(20):
        net(torch.randn(2, 4)).square().mean().backward()
    torch.save(net.weight.grad, f"{out}.child-{index}")


def spawns() -> object:
    """Start processes of its own, and train beside them."""
    mp.spawn(_spawned, args=(f"{options.out}.{dist.get_rank()}",), nprocs=2)
    net = DistributedDataParallel(model())
    ddp_steps(net, torch.optim.SGD(net.parameters(), lr=0.1))
    children = [torch.load(f"{options.out}.{dist.get_rank()}.child-{index}") for index in range(2)]
    return [*net.parameters(), *children]


def joins() -> object:
    """Train on uneven inputs, with DDP's `Join`."""
    net = DistributedDataParallel(model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with net.join():
        ddp_steps(net, optimizer, STEPS + 3 * dist.get_rank())
    return list(net.parameters())


def unused() -> object:
    """Use another branch in every other step: buckets none of whose parameters have gradients."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = model(), model()
            self.num = 0

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            self.num += 1
            return (self.first if self.num % 2 else self.second)(batch)

    net = DistributedDataParallel(Branches(), find_unused_parameters=True, bucket_cap_mb=0.001)
    ddp_steps(net, torch.optim.SGD(net.parameters(), lr=0.1))
    return list(net.parameters())


def two_models() -> object:
    """Train two models against each other, each in DDP, as a GAN does."""
    first, second = DistributedDataParallel(model()), DistributedDataParallel(nn.Linear(4, 1))
    one, two = (torch.optim.Adam(net.parameters(), lr=0.01) for net in (first, second))
    for batch in batches():
        made = first(batch)
        two.zero_grad()
        second(made.detach()).square().mean().backward()
        two.step()
        one.zero_grad()
        second(made).mean().backward()
        one.step()
    return [*first.parameters(), *second.parameters()]


def accumulates() -> object:
    """Accumulate gradients, with no_sync() and BatchNorm."""
    net = DistributedDataParallel(nn.Sequential(nn.BatchNorm1d(16), model()))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for number, batch in enumerate(batches(12)):
        if number % 3 < 2:
            with net.no_sync():
                net(batch).square().mean().backward()
        else:
            net(batch).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return [*net.parameters(), *net.buffers()]


def saves_async() -> object:
    """Save with torch.distributed.checkpoint's async_save, on the default group."""
    import torch.distributed.checkpoint as dcp

    net = DistributedDataParallel(model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for number in range(3):
        ddp_steps(net, optimizer, 2)
        pending = dcp.async_save({"net": net.module.state_dict()}, checkpoint_id=f"{options.out}-dcp-{number}")
        torch.randn(64, 64) @ torch.randn(64, 64)
        pending.result()  # two threads must not use one group at once, alone neither
    found = {"net": {name: torch.zeros_like(value) for name, value in net.module.state_dict().items()}}
    dcp.load(found, checkpoint_id=f"{options.out}-dcp-2")
    return [*net.parameters(), *found["net"].values()]


def waits_unseen() -> object:
    """Wait for the other workers through files, where nothing of torch's is called."""
    net = DistributedDataParallel(model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    pause = getattr(time.sleep, "__wrapped__", time.sleep)
    for step in range(4):
        ddp_steps(net, optimizer, 1)
        Path(f"{options.out}.here-{step}-{dist.get_rank()}").touch()
        while not all(Path(f"{options.out}.here-{step}-{rank}").exists() for rank in range(dist.get_world_size())):
            pause(0.001)
    return list(net.parameters())


def loads() -> object:
    """Load batches with DataLoader workers, and log with object collectives."""
    data = torch.utils.data.TensorDataset(torch.arange(64 * 16, dtype=torch.float32).reshape(64, 16) / 1000)
    sampler = torch.utils.data.DistributedSampler(data)
    loader = torch.utils.data.DataLoader(data, batch_size=4, sampler=sampler, num_workers=2)
    net = DistributedDataParallel(model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for (batch,) in loader:
            optimizer.zero_grad()
            loss = net(batch).square().mean()
            loss.backward()
            optimizer.step()
        everybody: list[object] = [None] * dist.get_world_size()
        dist.all_gather_object(everybody, loss.item())
        print("losses", everybody)
    return list(net.parameters())


class Slow(torch.utils.data.Dataset[torch.Tensor]):
    """Takes its time for each sample, as a read from a disk does."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, at: int) -> torch.Tensor:
        time.sleep(0.005)
        return torch.full((16,), at / 40)


def sleeps_in_workers() -> object:
    """Load batches with forked DataLoader workers that sleep."""
    net = DistributedDataParallel(model())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for batch in torch.utils.data.DataLoader(Slow(), batch_size=2, num_workers=2, multiprocessing_context="fork"):
        optimizer.zero_grad()
        net(batch).square().mean().backward()
        optimizer.step()
    return list(net.parameters())


KINDS: dict[str, Callable[[], object]] = {
    each.__name__: each
    for each in (
        fsdp2,
        replicate,
        zero,
        post_local_sgd,
        tensor_parallel,
        diloco,
        by_hand,
        by_hand_async,
        gathers_in_step,
        spawns,
        joins,
        unused,
        two_models,
        accumulates,
        saves_async,
        waits_unseen,
        loads,
        sleeps_in_workers,
    )
}

parser = argparse.ArgumentParser()
parser.add_argument("kinds")
parser.add_argument("--out", required=True)
options = parser.parse_args()

if __name__ == "__main__":
    dist.init_process_group("gloo")
    for kind in options.kinds.split(","):
        begin = time.perf_counter()
        found = KINDS[kind]()
        assert isinstance(found, list)
        torch.save([tensor.detach().clone() for tensor in found], f"{options.out}.{kind}.{dist.get_rank()}.pt")
        print(kind, "done", flush=True)
    dist.destroy_process_group()
