"""Train a LoRA adapter on a frozen base: how long ago was the token that comes next?

torchrun --nproc-per-node=2 lora.py --rank 8 --lr 1e-2

The base is built from a configuration, so nothing is downloaded. `AutoModelForCausalLM.from_pretrained` goes as well.
"""

import argparse

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch.nn.parallel import DistributedDataParallel
from transformers import GPT2Config, GPT2LMHeadModel

VOCABULARY, LENGTH = 64, 24


def batch(size):
    """Texts that repeat what stood there a third of their length ago."""
    part = torch.randint(VOCABULARY, (size, LENGTH // 3))
    return torch.cat([part, part, part], dim=1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--save-to", default="adapter.pt")
    args = parser.parse_args()

    dist.init_process_group()
    torch.manual_seed(0)
    sizes = {"n_layer": args.layers, "n_embd": args.width, "n_head": 4, "n_positions": LENGTH}
    base = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **sizes))
    torch.manual_seed(1 + dist.get_rank())
    lora = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=["c_attn"], fan_in_fan_out=True)
    model = DistributedDataParallel(get_peft_model(base, lora))  # only the adapter requires gradients
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=args.lr)
    for step in range(args.steps):
        tokens = batch(8)
        loss = model(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    if dist.get_rank() == 0:
        torch.save(get_peft_model_state_dict(model.module), args.save_to)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
