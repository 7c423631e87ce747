"""Train a network on scikit-learn's digits with Lightning:

torchrun --nproc-per-node=2 train_lightning.py --devices 2 --width 64
"""

import argparse

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class DigitsNet(pl.LightningModule):
    def __init__(self, width, lr):
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * width, 10),
        )  # fmt: skip

    def forward(self, images):
        return self.layers(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss, sync_dist=True, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self(images)
        self.log("val_loss", nn.functional.cross_entropy(logits, labels), sync_dist=True, prog_bar=True)
        self.log("val_accuracy", (logits.argmax(1) == labels).float().mean(), sync_dist=True, prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        return {
            "optimizer": optimizer,
            "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_epochs),
        }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--dir", default="lightning", help="where logs and checkpoints go")
    args = parser.parse_args()

    pl.seed_everything(1, workers=True)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    held_out = torch.arange(len(labels)) % 5 == 0
    trainer = pl.Trainer(
        accelerator="auto",
        devices=args.devices,
        strategy="ddp",
        max_epochs=args.epochs,
        precision=args.precision,
        gradient_clip_val=1.0,
        logger=CSVLogger(args.dir, name="", version="logs"),
        callbacks=[
            ModelCheckpoint(f"{args.dir}/checkpoints", monitor="val_loss", save_last=True),
            EarlyStopping("val_loss", patience=3),
        ],
        log_every_n_steps=5,
    )
    trainer.fit(
        DigitsNet(args.width, args.lr),
        DataLoader(TensorDataset(images[~held_out], labels[~held_out]), batch_size=32, shuffle=True),
        DataLoader(TensorDataset(images[held_out], labels[held_out]), batch_size=128),
    )
    if trainer.is_global_zero:
        print(f"accuracy {trainer.callback_metrics['val_accuracy']:.4f}")


if __name__ == "__main__":
    main()
