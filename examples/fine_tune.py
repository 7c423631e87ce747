"""Fine-tune a small Transformer with Hugging Face's Trainer: has a string more round or more square brackets?

torchrun --nproc-per-node=2 fine_tune.py --model bert --steps 60

The models are built from configurations, so nothing is downloaded.
"""

import argparse
import random

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainingArguments, set_seed

TOKENS = {"pad": 0, "cls": 1, "(": 2, ")": 3, "[": 4, "]": 5}
SIZES = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
}


class Brackets(Dataset):
    """Random strings of 11 brackets."""

    def __init__(self, size, seed):
        chance = random.Random(seed)
        self.texts = ["".join(chance.choices("()[]", k=11)) for _ in range(size)]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        text = self.texts[index]
        more_round = sum(c in "()" for c in text) > len(text) / 2
        tokens = [TOKENS["cls"], *(TOKENS[c] for c in text)]
        return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": int(more_round)}


def accuracy(prediction):
    return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=SIZES, default="bert")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--dir", default="fine-tuned")
    args = parser.parse_args()

    set_seed(0)
    size = {"vocab_size": 6, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, **SIZES[args.model]}
    config = AutoConfig.for_model(args.model, num_labels=2, **size)
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_config(config),
        args=TrainingArguments(
            output_dir=args.dir,
            max_steps=args.steps,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            gradient_accumulation_steps=2,
            learning_rate=args.lr,
            warmup_steps=args.steps // 10,
            eval_strategy="steps",
            eval_steps=args.steps // 2,
            save_steps=args.steps // 2,
            load_best_model_at_end=True,
            logging_steps=max(args.steps // 6, 1),
            use_cpu=not torch.cuda.is_available(),
            report_to=[],
        ),
        train_dataset=Brackets(4096, seed=1),
        eval_dataset=Brackets(256, seed=2),
        compute_metrics=accuracy,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    measured = trainer.evaluate()
    if trainer.is_world_process_zero():
        print(f"accuracy {measured['eval_accuracy']:.4f}")


if __name__ == "__main__":
    main()
