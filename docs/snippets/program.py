"""A program that trains functions of its own together."""

import functools

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel

import motet


def train(width: int, num_steps: int = 50) -> float:
    """Train as one would alone under torchrun, and return the last loss."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.manual_seed(dist.get_rank())
    model = DistributedDataParallel(nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    job = motet.current_job()  # need not be used; outside of a run it does nothing
    job.expect(turns=num_steps)
    for _ in range(num_steps):
        x = torch.randn(64, 32)
        loss = mse_loss(model(x), x.square().sum(1, keepdim=True) / 32)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        job.log(loss=loss)
    return loss.item()


if __name__ == "__main__":  # the workers import this file
    results = motet.launch(
        {"narrow": functools.partial(train, width=64), "wide": functools.partial(train, width=512)},
        nproc_per_node=2,
    )
    for name, job in results.jobs.items():
        print(f"{name}: {job.status} after {job.turns} turns, loss {job.result:.3f}")
