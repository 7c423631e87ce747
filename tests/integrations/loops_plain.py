"""Plain PyTorch under DistributedDataParallel, as the neighbours of loops that frameworks own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def train(folder: Path, fail: bool = False, width: int = 12, steps: int = 8) -> dict[str, Any]:
    """Train with dropout, BatchNorm, a sampler and a learning-rate schedule."""
    dist.init_process_group("gloo") if not dist.is_initialized() else None
    torch.manual_seed(5)
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 1))
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    losses, step, epoch = [], 0, 0
    while step < steps:
        sampler = DistributedSampler(data, shuffle=True)
        sampler.set_epoch(epoch)
        for x, y in DataLoader(data, batch_size=8, sampler=sampler):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            step += 1
            if fail and step == 3:
                raise RuntimeError("this loop fails in its third step")
            if step == steps:
                break
        epoch += 1
    dist.destroy_process_group()
    return {"weights": model.module.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
