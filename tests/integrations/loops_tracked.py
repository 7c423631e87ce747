"""Loops that frameworks own, with trackers that are the frameworks' own: TensorBoard, MLflow and W&B, all at once."""

from __future__ import annotations

import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import motet

NUM_STEPS = 6


def lightning(folder: Path, name: str, lr: float) -> list[float]:
    """Fit with three loggers; return the losses that they are given on worker 0."""
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
    from tests.integrations.loops_lightning import Net, data

    losses: list[float] = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            losses.append(float(trainer.logged_metrics["loss_step"]))

    pl.seed_everything(2, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=NUM_STEPS,
        logger=[
            TensorBoardLogger(folder / "tensorboard", name="", version=name),
            MLFlowLogger("frameworks", run_name=name, tracking_uri=os.environ["MLFLOW_TRACKING_URI"]),
            WandbLogger(name=name, save_dir=folder, offline=True),
        ],
        log_every_n_steps=1,
        callbacks=[Keep()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Net(lr=lr), DataLoader(data(), batch_size=8))
    return losses


def hugging_face(folder: Path, name: str, lr: float) -> list[float]:
    """Train with ``report_to`` of three trackers; return the losses of the Trainer's own log."""
    from tests.integrations.loops_hugging_face import Sentences
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard" / name)
    set_seed(13)
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    trainer = Trainer(
        model=BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, **narrow)),
        args=TrainingArguments(
            output_dir=str(folder / name),
            run_name=name,
            use_cpu=True,
            max_steps=NUM_STEPS,
            per_device_train_batch_size=4,
            learning_rate=lr,
            logging_steps=1,
            save_strategy="no",
            report_to=["tensorboard", "mlflow", "wandb"],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            ddp_find_unused_parameters=False,
        ),
        train_dataset=Sentences(80, 1, labelled=True),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def accelerate(folder: Path, name: str, lr: float) -> list[float]:
    """Train with ``log_with`` of three trackers; return the losses that they are given."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    set_seed(4)
    accelerator = Accelerator(cpu=True, log_with=["tensorboard", "mlflow", "wandb"], project_dir=folder / "tensorboard")
    settings = {"mlflow": {"run_name": name}, "wandb": {"name": name}}
    accelerator.init_trackers(name, {"lr": lr}, init_kwargs=settings)
    layers = nn.Linear(6, 1)
    model, optimizer, loader = accelerator.prepare(
        layers,
        torch.optim.SGD(layers.parameters(), lr=lr),
        DataLoader(TensorDataset(torch.randn(72, 6), torch.randn(72, 1)), batch_size=6),
    )
    losses = []
    for step, (x, y) in enumerate(loader, start=1):
        loss = nn.functional.mse_loss(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), "mean").item())
        accelerator.log({"loss": losses[-1]}, step=step)
        if step == NUM_STEPS:
            break
    accelerator.end_training()
    return losses


LOOPS = {"lightning": lightning, "hugging_face": hugging_face, "accelerate": accelerate}


def two_of(kind: str, folder: Path) -> dict[str, list[float]]:
    """Run two jobs of a framework; return the losses that the trackers of each were given."""
    from tests.integrations.harness import torchrun_environment

    surroundings = {
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "MLFLOW_TRACKING_URI": f"file:{folder}/mlflow",
        "MLFLOW_EXPERIMENT_NAME": "frameworks",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DIR": str(folder),
        "WANDB_CONSOLE": "off",
    }

    def job(name: str, lr: float) -> list[float]:
        warnings.simplefilter("ignore")  # theirs
        os.environ["WANDB_RUN_GROUP"] = f"group of {name}"
        return LOOPS[kind](folder, name, lr)

    environment = dict(os.environ)
    os.environ.update(torchrun_environment() | surroundings)
    try:
        results = motet.run({f"lr-{lr}": partial(job, f"lr-{lr}", lr) for lr in (0.01, 0.02)})
    finally:
        os.environ.clear()
        os.environ.update(environment)
    failed = [f"{name}: {job.error}" for name, job in results.jobs.items() if job.status != "finished"]
    assert not failed, failed[0]
    return {name: result.result for name, result in results.jobs.items()}  # type: ignore[misc]
