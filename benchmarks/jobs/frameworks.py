"""The transformer of `language` in loops that Lightning's and Hugging Face's Trainer own. Start as torchrun does."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jobs.language import Transformer, loss_of

SIZE: dict[str, int] = {"width": 128, "num_layers": 4, "num_heads": 4, "length": 64}
BATCH = 6


class Texts(Dataset[Any]):
    """Random bytes."""

    def __init__(self, size: int) -> None:
        self.rows = torch.randint(256, (size, SIZE["length"] + 1), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.rows[index]


def lightning(steps: int, silent: bool = False) -> None:
    """Fit the transformer with Lightning's Trainer as it comes: progress bar off, nothing saved.

    ``silent``: without what it tells the other workers before each batch, to see what that costs.
    """
    import lightning.pytorch as pl
    from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Transformer(**SIZE)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = loss_of(self.model, (batch,))
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-4)

    if silent:
        _TrainingEpochLoop._broadcast_sigterm_tensor = lambda loop: None  # type: ignore[method-assign]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=int(os.environ["LOCAL_WORLD_SIZE"]),
        num_nodes=dist.get_world_size() // int(os.environ["LOCAL_WORLD_SIZE"]),
        strategy="ddp",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), DataLoader(Texts(steps * BATCH * dist.get_world_size()), batch_size=BATCH))


def hugging_face(steps: int, silent: bool = False, find_unused: bool | None = False) -> None:
    """Train GPT-2 of the same size with Hugging Face's Trainer; ``find_unused`` None: the Trainer decides.

    ``silent``: without gathering how many tokens a batch has, and logging nothing.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    size = {"n_embd": SIZE["width"], "n_layer": SIZE["num_layers"], "n_head": SIZE["num_heads"], "vocab_size": 256}
    model = GPT2LMHeadModel(GPT2Config(n_positions=SIZE["length"], bos_token_id=0, eos_token_id=0, **size))
    arguments = TrainingArguments(
        output_dir="unused",
        use_cpu=True,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        ddp_find_unused_parameters=find_unused,
        average_tokens_across_devices=not silent,
        logging_strategy="no" if silent else "steps",
        logging_steps=10,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    rows = [{"input_ids": row[:-1], "labels": row[:-1]} for row in Texts(256).rows]
    Trainer(model=model, args=arguments, train_dataset=rows).train()
