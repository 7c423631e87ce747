"""Fine-tune with Hugging Face's Trainer: a script as one starts it with torchrun. Nothing here knows about Motet."""

import argparse

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments, set_seed


class Sentences(Dataset):
    """Made-up sentences of eight tokens; the label says whether the first token is an even one."""

    def __init__(self, size: int, seed: int) -> None:
        self.tokens = torch.randint(0, 50, (size, 8), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index):
        return {"input_ids": self.tokens[index], "labels": self.tokens[index][0] % 2}


parser = argparse.ArgumentParser()
parser.add_argument("--layers", type=int, default=1)
parser.add_argument("--lr", type=float, default=0.003)
parser.add_argument("--out", default="hf-out")
args = parser.parse_args()

set_seed(1)
config = BertConfig(
    vocab_size=50, hidden_size=32, num_hidden_layers=args.layers, num_attention_heads=2, intermediate_size=64
)
arguments = TrainingArguments(
    output_dir=args.out,
    use_cpu=True,
    max_steps=24,
    per_device_train_batch_size=8,
    gradient_accumulation_steps=2,
    learning_rate=args.lr,
    warmup_steps=4,
    logging_steps=8,
    eval_strategy="steps",
    eval_steps=12,
    save_steps=12,
    report_to=[],
    disable_tqdm=True,
    dataloader_pin_memory=False,
)
trainer = Trainer(
    model=BertForSequenceClassification(config),
    args=arguments,
    train_dataset=Sentences(512, seed=1),
    eval_dataset=Sentences(64, seed=2),
)
trainer.train()
