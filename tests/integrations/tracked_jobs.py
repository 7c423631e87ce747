"""Runs with trackers, run by the workers of a gang."""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet
from motet.events import Event, MetricsLogged

QUIET = {"MLFLOW_ALLOW_FILE_STORE": "true", "WANDB_SILENT": "true", "WANDB_MODE": "offline"}


def train(lr: float, steps: int = 4, end: str = "finish", log: Any = None) -> float:
    """Train a little; ``log`` gets each loss as well."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")  # in a process of its own
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    loss = torch.zeros(())
    for step in range(steps):
        loss = model(torch.ones(2, 4)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        motet.current_job().log(loss=loss.item())
        if log is not None:
            log(step, loss.item())
    if end == "prune":
        raise motet.JobPruned
    if end == "fail":
        raise ValueError("as the test wants it")
    return loss.item()


def with_all_trackers(folder: Path) -> list[str]:
    """Run three jobs that end in three ways, with every tracker there is."""
    from lightning.pytorch.loggers import CSVLogger

    from motet.integrations.csv_files import CsvFiles
    from motet.integrations.lightning_loggers import LightningLoggers
    from motet.integrations.mlflow import MLflow
    from motet.integrations.tensorboard import TensorBoard
    from motet.integrations.wandb import WandB

    os.environ.update(QUIET)
    warnings.simplefilter("ignore")  # theirs
    trackers: list[Any] = [
        CsvFiles(folder / "csv"),
        TensorBoard(folder / "tensorboard"),
        MLflow(tracking_uri=f"file:{folder}/mlflow", experiment="tests", group="g"),
        WandB(mode="offline", folder=folder / "wandb", group="g"),
        LightningLoggers(lambda job: CSVLogger(str(folder / "lightning"), name=job, version="")),
        LightningLoggers(CSVLogger(str(folder / "one"), name="all", version="")),
    ]
    jobs = {
        "good": partial(train, 0.1),
        "bad": partial(train, 0.2, end="fail"),
        "slow": partial(partial(train, end="prune"), lr=0.3),
    }
    results = motet.run(jobs, observers=trackers)
    if dist.get_rank() == 0:
        (folder / "report.html").write_text("<html>", encoding="utf-8")
        for tracker in trackers:
            tracker.attach_report(folder / "report.html")
    return [job.status for job in results.jobs.values()] + list(results.notices)


def with_trackers_of_their_own(folder: Path) -> dict[str, list[str]]:
    """Run jobs that use the global functions of MLflow and W&B, each with settings of its own, and end no run.

    In processes whose settings of W&B have not been read before.
    """
    import mlflow
    import wandb
    from torch.utils.tensorboard import SummaryWriter

    os.environ.update(QUIET)
    warnings.simplefilter("ignore")

    def tracked(lr: float, end: str) -> float:
        if dist.get_rank() != 0:
            return ended(train(lr), end)
        mlflow.set_tracking_uri(f"file:{folder}/mlflow-{lr}")
        mlflow.set_experiment(f"own-{lr}")
        mlflow.start_run(nested=True)
        mlflow.log_params({"lr": lr}, synchronous=False)
        os.environ.update(WANDB_DIR=str(folder), WANDB_CONSOLE="off", WANDB_RUN_GROUP=f"group-{lr}")
        wandb.init(project="own", name=f"own-{lr}")
        writer = SummaryWriter(str(folder / "tensorboard" / f"own-{lr}"))

        def log(step: int, loss: float) -> None:
            mlflow.log_metric("loss", loss, step=step, synchronous=False)
            wandb.log({"loss": loss}, step=step)
            writer.add_scalar("loss", loss, step)

        loss = train(lr, log=log)
        assert wandb.run is not None
        assert wandb.run.name == f"own-{lr}"
        assert mlflow.get_tracking_uri() == f"file:{folder}/mlflow-{lr}"
        writer.close()
        return ended(loss, end)

    def ended(loss: float, end: str) -> float:
        if end == "raise":
            raise ValueError("as the test wants it")
        if end == "exit":
            sys.exit(1)
        return loss

    def globals_now() -> list[str]:
        run = mlflow.active_run()
        return ["" if run is None else run.info.run_id, mlflow.get_tracking_uri(), str(wandb.run)]

    mlflow.set_tracking_uri(f"file:{folder}/mlflow")
    with mlflow.start_run():
        before = globals_now()
        ends = {0.1: "", 0.2: "", 0.3: "exit", 0.4: "raise"}
        results = motet.run({f"job-{lr}": partial(tracked, lr, end) for lr, end in ends.items()})
        after = globals_now()
    return {"statuses": [job.status for job in results.jobs.values()], "before": before, "after": after}


def with_a_tracker_that_fails(folder: Path) -> tuple[list[str], list[str]]:
    """Run with an observer that fails after a while; return statuses and what the user is told."""

    class Failing:
        def __init__(self) -> None:
            self.seen = 0

        def observe(self, event: Event) -> None:
            if isinstance(event, MetricsLogged):
                self.seen += 1
                if self.seen == 3:
                    raise OSError("the disk is full")

    failing = Failing()
    results = motet.run({"a": partial(train, 0.1), "b": partial(train, 0.2)}, observers=[failing])
    assert failing.seen == 3
    return [job.status for job in results.jobs.values()], list(results.notices)
