"""Loops that a framework owns and that go on from the framework's own checkpoints, as its documentation says.

Nothing here knows of Motet. Each leaves ``final.pt`` in its folder: weights and optimizer as they ended.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.outside import send_from_outside

# Six batches an epoch: a checkpoint lies within an epoch, not at its end. So many steps because workers agree on a stop
# about twice a second.
EVERY, NUM_STEPS = 4, 62


def lightning(folder: str, preempted_at: int | None = None) -> dict[str, int]:
    """Fit, from the newest checkpoint in the folder if there is one; say after which step this began.

    ``preempted_at``: where a loop that has begun at the beginning gets a SIGTERM, on worker 1 alone.
    """
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from tests.integrations.loops_lightning import Net, data
    from torch.utils.data import DataLoader

    class Preempted(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if newest is None and trainer.global_step == preempted_at and trainer.global_rank == 1:
                send_from_outside(signal.SIGTERM)

    pl.seed_everything(2, verbose=False)
    newest = max(Path(folder).glob("step=*.ckpt"), key=_number, default=None)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_steps=NUM_STEPS,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Preempted(), ModelCheckpoint(folder, "{step}", every_n_train_steps=EVERY, save_top_k=-1)],
    )
    module = Net()
    trainer.fit(module, DataLoader(data(size=96), batch_size=8, shuffle=True), ckpt_path=newest)
    if trainer.is_global_zero:
        _leave(folder, module, trainer.optimizers[0])
    return {"began_after": _number(newest)}


def hugging_face(folder: str) -> dict[str, int]:
    """Fine-tune, from the newest checkpoint in the folder if there is one; say after which step this began."""
    from tests.integrations.loops_hugging_face import Sentences
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    set_seed(13)
    newest = get_last_checkpoint(folder) if Path(folder).is_dir() else None
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForSequenceClassification(BertConfig(max_position_embeddings=16, vocab_size=40, **narrow))
    arguments = TrainingArguments(
        output_dir=folder,
        use_cpu=True,
        max_steps=NUM_STEPS,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        warmup_steps=2,
        save_steps=EVERY,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Sentences(48, 1, labelled=True))
    trainer.train(resume_from_checkpoint=newest)
    if trainer.is_world_process_zero():
        _leave(folder, model, trainer.optimizer)
    return {"began_after": _number(newest)}


LOOPS = {"lightning": lightning, "hugging_face": hugging_face}


def stopped_and_resumed_alone(name: str, folder: str, turn: int) -> dict[str, int]:
    """Train a loop alone under plain DDP to its end; again with what it had saved before ``turn``, elsewhere.

    That is what is left of a run that was stopped when that turn's gradients were there, but no step taken with them.
    Leaves both ends, in ``whole`` and in ``resumed``.
    """
    from tests.distributed.identity import seed_everything
    from tests.integrations.harness import fresh_process

    whole, resumed = Path(folder, "whole"), Path(folder, "resumed")
    with fresh_process():
        seed_everything()
        LOOPS[name](str(whole))
    if dist.get_rank() == 0:
        resumed.mkdir()
        for path in whole.iterdir():
            if 0 < _number(path) < turn:
                (shutil.copytree if path.is_dir() else shutil.copy)(path, resumed / path.name)
    dist.barrier()
    with fresh_process():
        seed_everything()
        return LOOPS[name](str(resumed))


def _number(path: str | Path | None) -> int:
    """Return the step that a checkpoint's name tells; 0 if there is none."""
    digits = "".join(filter(str.isdigit, Path(path).name)) if path is not None else ""
    return int(digits or 0)


def _leave(folder: str, model: torch.nn.Module, optimizer: Any) -> None:
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Lightning and Accelerate wrap it
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, Path(folder, "final.pt"))
