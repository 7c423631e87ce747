"""Train with Lightning: a script as one starts it with torchrun. Nothing here knows about Motet."""

import argparse

import lightning
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset


class Net(lightning.LightningModule):
    def __init__(self, width: int, lr: float) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(32, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 1))

    def training_step(self, batch, index):
        loss = mse_loss(self.layers(batch[0]), batch[1])
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", mse_loss(self.layers(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)


parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=128)
parser.add_argument("--lr", type=float, default=0.003)
parser.add_argument("--out", default="lightning-out")
args = parser.parse_args()

lightning.seed_everything(1, verbose=False)
inputs = torch.randn(512, 32)
data = TensorDataset(inputs, inputs.square().sum(1, keepdim=True) / 32)
trainer = lightning.Trainer(
    accelerator="cpu",
    devices=2,
    strategy="ddp",
    max_epochs=2,
    default_root_dir=args.out,
    logger=lightning.pytorch.loggers.CSVLogger(args.out),
    log_every_n_steps=4,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Net(args.width, args.lr), DataLoader(data, batch_size=16, shuffle=True), DataLoader(data, batch_size=64))
print(f"val_loss {trainer.callback_metrics['val_loss']:.4f}")
