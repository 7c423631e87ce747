"""What people fine-tune with Hugging Face's Trainer, started as under torchrun; small models, from configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EarlyStoppingCallback,
    EvalPrediction,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

_CLOCKS = ("runtime", "per_second", "flos")


class Sentences(Dataset[Any]):
    """Random tokens; a label that depends on them, or the tokens themselves."""

    def __init__(self, size: int, seed: int, labelled: bool) -> None:
        numbers = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, 40, (size, 8), generator=numbers)
        self.labelled = labelled

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = self.tokens[index]
        return {"input_ids": tokens, "labels": tokens.sum() % 2 if self.labelled else tokens}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}


def train(
    folder: Path,
    accumulate: bool = False,
    bf16: bool = False,
    smooth: bool = False,
    stop_early: bool = False,
    generate: bool = False,
    fail: bool = False,
) -> dict[str, Any]:
    """Fine-tune with warmup, evaluation, saving and the best model loaded at the end."""
    set_seed(13)
    size = {"vocab_size": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    if generate:
        model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=16, **size))
    else:
        narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        model = BertForSequenceClassification(BertConfig(max_position_embeddings=16, **narrow, **size))
    if fail:
        model.register_forward_pre_hook(_fail_at(5))
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        use_cpu=True,
        max_steps=8,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2 if accumulate else 1,
        learning_rate=5e-3,
        warmup_steps=2,
        bf16=bf16,
        label_smoothing_factor=0.1 if smooth else 0.0,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=2,
        save_steps=2,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=stop_early,  # worse and worse: stopped soon
        logging_steps=1,
        report_to=[],
        disable_tqdm=smooth,
        dataloader_num_workers=0,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Sentences(80, 1, labelled=not generate),
        eval_dataset=Sentences(24, 2, labelled=not generate),
        compute_metrics=None if generate else accuracy,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=1)] if stop_early else [],
    )
    trainer.train()
    evaluated = trainer.evaluate()
    best = trainer.state.best_model_checkpoint
    return {
        "weights": model.state_dict(),
        "log": [_without_clocks(entry) for entry in trainer.state.log_history],
        "evaluated": _without_clocks(evaluated),
        "best": (Path(best).name if best else None, trainer.state.best_metric),
        "step": trainer.state.global_step,
    }


def _without_clocks(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if not any(clock in key for clock in _CLOCKS)}


def _fail_at(call: int) -> Any:
    calls = 0

    def count(module: Any, args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise RuntimeError("this loop fails")

    return count
