"""Loops that frameworks own, with trackers that are the frameworks' own: TensorBoard, MLflow and W&B, all at once."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from tests.integrations.loops_hugging_face import Sentences
from tests.integrations.loops_lightning import Net, data
from torch import nn
from torch.utils.data import DataLoader


def surroundings(folder: Path) -> dict[str, str]:
    """Return what a user says in the shell: where the trackers write. W&B reads it once a process."""
    return {
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_TRACKING_URI": f"file:{folder}/mlflow",
        "MLFLOW_EXPERIMENT_NAME": "frameworks",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(folder),
        "WANDB_CONSOLE": "off",
    }


def lightning(folder: Path, name: str, lr: float) -> list[float]:
    """Fit with three loggers; return the losses that they are given on worker 0."""
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

    warnings.simplefilter("ignore")  # theirs
    losses: list[float] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            losses.append(float(trainer.logged_metrics["loss_step"]))

    pl.seed_everything(2, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=6,
        logger=[
            TensorBoardLogger(folder / "tensorboard", name="", version=name),
            MLFlowLogger("frameworks", run_name=name, tracking_uri=os.environ["MLFLOW_TRACKING_URI"]),
            WandbLogger(name=name, save_dir=folder, offline=True),
        ],
        log_every_n_steps=1,
        callbacks=[Keep()],
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Net(lr=lr), DataLoader(data(), batch_size=8))
    return losses


def hugging_face(folder: Path, name: str, lr: float) -> list[float]:
    """Train with ``report_to`` of three trackers; return the losses of the Trainer's own log."""
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

    warnings.simplefilter("ignore")  # theirs
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard" / name)
    set_seed(13)
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    trainer = Trainer(
        model=BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, **narrow)),
        args=TrainingArguments(
            output_dir=str(folder / name),
            run_name=name,
            use_cpu=True,
            max_steps=6,
            per_device_train_batch_size=4,
            learning_rate=lr,
            logging_steps=1,
            save_strategy="no",
            report_to=["tensorboard", "mlflow", "wandb"],
            disable_tqdm=True,
        ),
        train_dataset=Sentences(80, 1, labelled=True),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def accelerate(folder: Path, name: str, lr: float) -> list[float]:
    """Train with ``log_with`` of three trackers; return the losses that they are given."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    warnings.simplefilter("ignore")  # theirs
    set_seed(4)
    accelerator = Accelerator(cpu=True, log_with=["tensorboard", "mlflow", "wandb"], project_dir=folder / "tensorboard")
    settings = {"mlflow": {"run_name": name}, "wandb": {"name": name}}
    accelerator.init_trackers(name, {"lr": lr}, init_kwargs=settings)
    layers = nn.Linear(6, 1)
    model, optimizer, loader = accelerator.prepare(
        layers, torch.optim.SGD(layers.parameters(), lr=lr), DataLoader(data(), batch_size=6)
    )
    losses = []
    for step, (x, y) in enumerate(loader, start=1):
        loss = nn.functional.mse_loss(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
        accelerator.log({"loss": losses[-1]}, step=step)
        if step == 6:
            break
    accelerator.end_training()
    return losses
