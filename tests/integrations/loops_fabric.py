"""A loop of one's own with Lightning Fabric, started as under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train(folder: Path, bf16: bool = False, accumulate: bool = False, fail: bool = False) -> dict[str, Any]:
    """Train with Fabric's backward, accumulation, clipping, a schedule, validation, reductions and checkpoints."""
    fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp", precision="bf16-mixed" if bf16 else "32-true")
    fabric.launch()
    fabric.seed_everything(11 + fabric.global_rank)
    with fabric.init_module():
        layers = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, 1))
    model, optimizer = fabric.setup(layers, torch.optim.SGD(layers.parameters(), lr=0.05, momentum=0.9))
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(4))
    loader = fabric.setup_dataloaders(
        DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4, shuffle=True)
    )
    held_out = fabric.setup_dataloaders(DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=8))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 16)
    logged = []
    for epoch in range(2):
        model.train()
        for index, (x, y) in enumerate(loader):
            more = accumulate and index % 2 == 0
            with fabric.no_backward_sync(model, enabled=more):
                loss = nn.functional.mse_loss(model(x), y)
                fabric.backward(loss)
            if fail and index == 2:
                raise RuntimeError("this loop fails")
            if more:
                continue
            norm = fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            logged.append((epoch, norm, fabric.all_reduce(loss.detach())))
        model.eval()
        with torch.no_grad():
            losses = [nn.functional.mse_loss(model(x), y) for x, y in held_out]
        logged.append((epoch, schedule.get_last_lr(), fabric.all_reduce(torch.stack(losses).mean())))
        fabric.barrier()
    logged.append(fabric.all_gather(loss.detach()))
    fabric.save(folder / "state.ckpt", {"model": model, "optimizer": optimizer})
    fabric.barrier()
    saved = fabric.load(folder / "state.ckpt")
    return {"weights": model.module.state_dict(), "logged": logged, "saved": saved}
