"""Train for ``--steps`` steps, and in each leave the job's name in this worker's file."""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--name", required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--width", type=int, default=8)
options = parser.parse_args()

dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(options.width, options.width))
for _ in range(options.steps):
    loss = model(torch.ones(options.width, options.width)).sum()
    with open(f"turns.{os.environ['RANK']}", "a", encoding="ascii") as file:
        file.write(options.name)
    loss.backward()
dist.destroy_process_group()
