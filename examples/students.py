"""Two students learn from one teacher:

    torchrun --nproc-per-node=2 examples/students.py

Each student's loop builds the teacher for itself, as it does alone; Motet finds that the two are equal.
"""

import os
from functools import partial

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet


def build_teacher():
    """Return a frozen network; a real one would be loaded from a file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(64, 640), nn.Tanh(), nn.Linear(640, 640), nn.Tanh(), nn.Linear(640, 10)]
        return nn.Sequential(*layers).requires_grad_(False)


def distill(width, num_steps):
    """Train a student to say what the teacher says; return how far it is off."""
    torch.manual_seed(width)
    teacher = build_teacher()
    student = DistributedDataParallel(nn.Sequential(nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 10)))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for _ in range(num_steps):
        x = torch.randn(64, 64)
        loss = nn.functional.mse_loss(student(x), teacher(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


if __name__ == "__main__":
    results = motet.run({f"width{width}": partial(distill, width, 60) for width in (16, 64)})
    if os.environ.get("RANK", "0") == "0":
        for name, job in results.items():
            print(f"{name}: off by {job.result:.4f}")
        print(*results.notices, sep="\n")
