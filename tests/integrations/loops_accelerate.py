"""A loop of one's own with Accelerate, started as under torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, on_main_process
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Lines(GeneralTracker):
    """A tracker of the user's own."""

    name = "lines"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[Any] = []

    @property
    def tracker(self) -> list[Any]:
        return self.lines

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.lines.append(values)

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.lines.append((step, values))


def train(
    folder: Path, bf16: bool = False, accumulate: bool = False, stop_early: bool = False, fail: bool = False
) -> dict[str, Any]:
    """Train with accumulation, clipping, a schedule, evaluation on gathered metrics, tracking and saved states."""
    lines = Lines()
    accelerator = Accelerator(
        cpu=True,
        mixed_precision="bf16" if bf16 else "no",
        gradient_accumulation_steps=3 if accumulate else 1,
        log_with=lines,
        step_scheduler_with_optimizer=False,
    )
    accelerator.init_trackers("project", {"bf16": bf16})
    set_seed(7)
    layers = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.2), nn.Linear(20, 1))
    inputs = torch.randn(90, 6, generator=torch.Generator().manual_seed(8))
    rows = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    model, optimizer, loader, held_out, schedule = accelerator.prepare(
        layers, optimizer, DataLoader(rows, batch_size=6, shuffle=True), DataLoader(rows, batch_size=7), schedule
    )
    evaluated = []
    step = 0
    for _ in range(2):
        model.train()
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.mse_loss(model(x), y)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            if fail and step == 4:
                raise RuntimeError("this loop fails")
            accelerator.log({"loss": accelerator.reduce(loss.detach(), "mean")}, step=step)
            if stop_early:
                if step % 5 == 0 and accelerator.is_main_process:
                    accelerator.set_trigger()
                if accelerator.check_trigger():
                    break
        schedule.step()
        model.eval()
        with torch.no_grad():
            outputs = [accelerator.gather_for_metrics((model(x), y)) for x, y in held_out]
        evaluated.append([torch.cat(part) for part in zip(*outputs, strict=True)])
        assert len(evaluated[-1][0]) == len(rows)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(folder / "state"))
    weights = accelerator.unwrap_model(model).state_dict()
    accelerator.end_training()
    return {"weights": weights, "optimizer": optimizer.state_dict(), "logged": lines.lines, "evaluated": evaluated}
