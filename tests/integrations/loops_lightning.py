"""What people train with Lightning's Trainer, started as under torchrun. Nothing here knows of Motet."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset


class Net(pl.LightningModule):
    """A small regression with dropout, BatchNorm and a schedule."""

    def __init__(self, width: int = 16, lr: float = 0.05, fail_at: int = -1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(
            nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 1)
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.global_step == self.hparams.fail_at:
            raise RuntimeError("this loop fails")
        loss = nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True, sync_dist=True)
        self.log("noise", torch.rand(()))
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.layers(batch[0]), batch[1]), sync_dist=True, prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)}


class Pair(pl.LightningModule):
    """Two optimizers in turns, by hand, as for a GAN."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.one, self.other = nn.Linear(6, 6), nn.Linear(6, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        first, second = self.optimizers()
        for optimizer, sign in ((first, 1.0), (second, -1.0)):
            self.toggle_optimizer(optimizer)
            loss = (self.other(self.one(batch[0])) - sign * batch[1]).square().mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=0.5)
            optimizer.step()
            self.untoggle_optimizer(optimizer)
        self.log("loss", loss)

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=0.05) for part in (self.one, self.other)]


class Adversaries(Pair):
    """A generator and a critic by hand; what one backward does not use fills whole buckets."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 6))
        self.other = nn.Sequential(nn.Linear(6, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        real, (generator, critic) = batch[0], self.optimizers()
        noise = torch.randn(len(real), 4).type_as(real)
        softplus = nn.functional.softplus
        self.toggle_optimizer(generator)
        loss = softplus(-self.other(self.one(noise))).mean()
        self.log("g_loss", loss, prog_bar=True)
        self.manual_backward(loss)
        generator.step()
        generator.zero_grad()
        self.untoggle_optimizer(generator)
        self.toggle_optimizer(critic)
        loss = softplus(-self.other(real)).mean() + softplus(self.other(self.one(noise).detach())).mean()
        self.log("d_loss", loss, prog_bar=True)
        self.manual_backward(loss)
        critic.step()
        critic.zero_grad()
        self.untoggle_optimizer(critic)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=2e-3, betas=(0.5, 0.9)) for part in (self.one, self.other)]


class Watch(Callback):
    """Keeps the norm of the synchronized gradients, and how often the epoch ended."""

    def __init__(self) -> None:
        self.norms: list[Tensor] = []
        self.epochs = 0

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any) -> None:
        self.norms.append(torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.epochs += 1


def data(seed: int = 1, size: int = 64) -> Dataset[Any]:
    inputs = torch.randn(size, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs.sum(1, keepdim=True))


def ended(trainer: pl.Trainer, folder: Path, module: pl.LightningModule, watch: Watch) -> dict[str, Any]:
    """Return what a training ended with: weights, optimizers, logged values, checkpoints."""
    found = {
        "weights": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "metrics": {name: value.clone() for name, value in trainer.callback_metrics.items()},
        "norms": watch.norms,
        "epochs": watch.epochs,
        "step": trainer.global_step,
        "stopped": trainer.should_stop,
    }
    if trainer.is_global_zero:
        with open(folder / "logs" / "metrics.csv", newline="") as file:
            found["log"] = list(csv.DictReader(file))
    checkpoint = trainer.checkpoint_callback
    if isinstance(checkpoint, ModelCheckpoint) and checkpoint.best_model_path:
        found["best"] = (Path(checkpoint.best_model_path).name, checkpoint.best_model_score)
        found["saved"] = torch.load(checkpoint.best_model_path, weights_only=False)["state_dict"]
    return found


def train(
    folder: Path,
    accumulate: bool = False,
    bf16: bool = False,
    manual: bool = False,
    adversaries: bool = False,
    stop_early: bool = False,
    clip: bool = False,
    seeded: bool = False,
    tqdm: bool = False,
    steps: bool = False,
    fail: bool = False,
) -> dict[str, Any]:
    """Fit a model on two workers with callbacks, checkpoints, validation and a CSV log."""
    pl.seed_everything(3 if seeded else 2, workers=seeded)
    module: pl.LightningModule = Pair() if manual else Net(fail_at=3 if fail else -1)
    if adversaries:
        module, manual = Adversaries(), True
    watch = Watch()
    callbacks: list[Any] = [watch, LearningRateMonitor()]
    validated = not manual
    if validated:
        callbacks.append(ModelCheckpoint(folder / "checkpoints", monitor="val_loss", save_top_k=2, save_last=True))
    if stop_early:
        callbacks.append(EarlyStopping("val_loss", min_delta=100.0, patience=1))
    if tqdm:
        callbacks.append(pl.callbacks.TQDMProgressBar())
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=DDPStrategy(find_unused_parameters=manual, bucket_cap_mb=0.0005 if adversaries else 25),
        max_epochs=-1 if steps else 5 if stop_early else 2,
        max_steps=6 if steps else -1,
        accumulate_grad_batches=2 if accumulate else 1,
        precision="bf16-mixed" if bf16 else "32-true",
        gradient_clip_val=0.1 if clip else None,
        default_root_dir=folder,
        logger=CSVLogger(folder, name="", version="logs"),
        log_every_n_steps=1,
        callbacks=callbacks,
        enable_checkpointing=validated,
    )
    trainer.fit(
        module,
        DataLoader(data(), batch_size=8, shuffle=True, num_workers=1 if seeded else 0),
        DataLoader(data(seed=2, size=32), batch_size=8) if validated else None,
    )
    if validated:
        trainer.validate(module, DataLoader(data(seed=3, size=32), batch_size=8), verbose=False)
    return ended(trainer, folder, module, watch)
