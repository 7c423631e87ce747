"""Train a small network on made-up data: a script as one hands it to torchrun. Nothing here knows about Motet."""

import argparse

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.01)
parser.add_argument("--width", type=int, default=256)
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--save-to")
args = parser.parse_args()

dist.init_process_group("gloo")
torch.manual_seed(0)
inputs = torch.randn(2048, 32)
data = TensorDataset(inputs, inputs.square().sum(1, keepdim=True) / 32)
sampler = DistributedSampler(data)
loader = DataLoader(data, batch_size=32, sampler=sampler)
layers = [nn.Linear(32, args.width), nn.ReLU(), nn.Linear(args.width, args.width), nn.ReLU(), nn.Linear(args.width, 1)]
model = DistributedDataParallel(nn.Sequential(*layers))
optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

for epoch in range(args.epochs):
    sampler.set_epoch(epoch)
    total = 0.0
    for x, y in loader:
        loss = mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    if dist.get_rank() == 0:
        print(f"epoch {epoch + 1}: loss {total / len(loader):.4f}")

if args.save_to and dist.get_rank() == 0:
    torch.save(model.module.state_dict(), args.save_to)
dist.destroy_process_group()
