"""Ordinary DDP training loops that talk among themselves, and load data as one does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.distributed.identity import Record
from tests.distributed.jobs_plain import SMALL_BUCKETS, STEPS, batch, net, train
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset


def mean_loss() -> Record:
    """The loss averaged over the workers, blocking, in each step, right after backward()."""
    ddp = DDP(net(), bucket_cap_mb=SMALL_BUCKETS)
    optimizer = torch.optim.Adam(ddp.parameters())
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        optimizer.zero_grad()
        loss.backward()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        optimizer.step()
        record.look(mean / dist.get_world_size())
    return record.ended(ddp, optimizer)


def mean_loss_before() -> Record:
    """The same between forward and backward()."""
    ddp = DDP(net())
    optimizer = torch.optim.Adam(ddp.parameters())
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        mean = loss.detach().clone()
        dist.all_reduce(mean, op=dist.ReduceOp.MAX)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        record.look(mean)
    return record.ended(ddp, optimizer)


def conversation() -> Record:
    """Every kind of collective that loops use for themselves, one of them on its way while a turn ends."""
    ddp = DDP(net())
    optimizer = torch.optim.Adam(ddp.parameters())
    record = Record()
    rank, size = dist.get_rank(), dist.get_world_size()
    for step in range(STEPS):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        under_way = torch.full((3,), float(rank + step))
        work = dist.all_reduce(under_way, async_op=True)
        optimizer.zero_grad()
        loss.backward()
        assert work is not None
        work.wait()
        gathered = [torch.empty(()) for _ in range(size)]
        dist.all_gather(gathered, loss.detach())
        objects: list[Any] = [None] * size
        dist.all_gather_object(objects, {"rank": rank, "step": step})
        word = [f"from the last in step {step}" if rank == size - 1 else None]
        dist.broadcast_object_list(word, src=size - 1)
        dist.barrier()
        optimizer.step()
        record.look(loss, under_way, gathered, objects, word)
    return record.ended(ddp, optimizer)


def groups() -> Record:
    """Groups of the loop's own: of all workers, for its DDP; of each one alone."""
    everyone = dist.new_group()
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
    ddp = DDP(net(), process_group=everyone)
    optimizer = torch.optim.Adam(ddp.parameters())
    record = Record()
    for _ in range(STEPS):
        x, y = batch()
        loss = F.cross_entropy(ddp(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values = [loss.detach().clone(), loss.detach().clone()]
        dist.all_reduce(values[0], group=everyone)
        dist.all_reduce(values[1], group=alone)
        record.look(*values)
    if dist.get_world_size() > 1:
        dist.destroy_process_group(everyone)
    ended = record.ended(ddp, optimizer)
    del ddp  # before its group: a reducer that is the last to let go of one can wait for ever (torch 2.13)
    return ended


def mesh() -> Record:
    """DDP over a device mesh of all workers."""
    ddp = DDP(net(), device_mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    return train(ddp, torch.optim.Adam(ddp.parameters()), Record())


def saving() -> Record:
    """Saved by worker 0 alone, read by all after a barrier."""
    ddp = DDP(net())
    optimizer = torch.optim.Adam(ddp.parameters())
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        place = [folder]
        dist.broadcast_object_list(place, src=0)
        path = Path(place[0]) / "model.pt"
        for step in range(STEPS):
            train(ddp, optimizer, record, steps=1)
            if step % 2:
                if dist.get_rank() == 0:
                    torch.save({"model": ddp.state_dict(), "optimizer": optimizer.state_dict()}, path)
                dist.barrier()
                saved = torch.load(path, weights_only=True)
                record.look(saved)
                ddp.load_state_dict(saved["model"])
                optimizer.load_state_dict(saved["optimizer"])
                dist.barrier()
    return record.ended(ddp, optimizer)


def group_of_its_own() -> Record:
    """A loop that makes and ends the process group by names that it imported early; alone it is `training`."""
    init_process_group("gloo")
    try:
        return training()
    finally:
        destroy_process_group()


def training() -> Record:
    """What `group_of_its_own` does in between."""
    assert dist.is_initialized()
    record = mean_loss()
    dist.barrier()
    return record


def group_ended_twice() -> Record:
    """A loop that makes the group with all that torchrun told it, and ends it before its last words."""
    dist.init_process_group("cpu:gloo", rank=dist.get_rank(), world_size=dist.get_world_size())
    record = training()
    dist.destroy_process_group()
    return record


def sharded_optimizer() -> Record:
    """An optimizer that shards its state and sends parameters around after its step."""
    ddp = DDP(net(depth=3))
    optimizer = ZeroRedundancyOptimizer(ddp.parameters(), optimizer_class=torch.optim.Adam, lr=0.01)
    record = Record()
    for _ in range(STEPS):
        train_one(ddp, optimizer, record)
    return record.ended(ddp)


def train_one(ddp: DDP, optimizer: torch.optim.Optimizer, record: Record) -> None:
    x, y = batch()
    loss = F.cross_entropy(ddp(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    record.look(loss)


class Noisy(Dataset[Any]):
    """Points whose noise comes from the generators of the process that loads them."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Any:
        return torch.full((10,), index / 48.0) + torch.randn(10), index % 3


def _load(dataset: Dataset[Any], num_loaders: int, epochs: int = 2, **options: Any) -> Record:
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, shuffle=True, seed=3)
    loader = DataLoader(dataset, batch_size=8, sampler=sampler, num_workers=num_loaders, **options)
    ddp = DDP(net())
    optimizer = torch.optim.Adam(ddp.parameters())
    record = Record()
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = F.cross_entropy(ddp(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record.look(loss, x)
    return record.ended(ddp, optimizer)


def loader() -> Record:
    """Data loaded in this process."""
    return _load(Noisy(), 0)


def loader_workers() -> Record:
    """Data loaded by two processes."""
    return _load(Noisy(), 2)


def loader_workers_persistent() -> Record:
    """Data loaded by two processes that stay over the epochs."""
    return _load(Noisy(), 2, persistent_workers=True, prefetch_factor=1)


def loader_shuffled() -> Record:
    """A loader that shuffles by the global generator, another order on every worker."""
    points = TensorDataset(torch.randn(40, 10), torch.randint(3, (40,)))
    loader = DataLoader(points, batch_size=8, shuffle=True)
    ddp = DDP(net())
    optimizer = torch.optim.Adam(ddp.parameters())
    record = Record()
    for _ in range(2):
        for x, y in loader:
            loss = F.cross_entropy(ddp(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            record.look(loss, x)
    return record.ended(ddp, optimizer)
