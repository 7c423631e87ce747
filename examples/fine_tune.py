"""Fine-tune a small Transformer with Hugging Face's Trainer: is a string of brackets balanced?

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
    """Balanced strings of brackets, and the same with one bracket turned into another."""

    def __init__(self, size, seed):
        chance = random.Random(seed)
        self.rows = [self.make(chance) for _ in range(size)]

    @staticmethod
    def make(chance):
        closing, text = [], ""
        while len(text) < 12:
            if closing and (len(text) + len(closing) >= 12 or chance.random() < 0.5):
                text += closing.pop()
            else:
                opening = chance.choice("([")
                closing.append(")" if opening == "(" else "]")
                text += opening
        balanced = chance.random() < 0.5
        if not balanced:
            place = chance.randrange(len(text))
            text = text[:place] + chance.choice([c for c in "()[]" if c != text[place]]) + text[place + 1 :]
        return [TOKENS["cls"], *(TOKENS[c] for c in text)], int(balanced)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        tokens, label = self.rows[index]
        return {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": label}


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
    config = AutoConfig.for_model(args.model, vocab_size=6, pad_token_id=0, num_labels=2, **SIZES[args.model])
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
