"""Run one loop of a framework's as a program of its own: ``own_process_script.py LOOP FOLDER``."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
from tests.integrations.harness import find

if __name__ == "__main__":
    folder, worker = Path(sys.argv[2]), int(os.environ["RANK"])
    folder.mkdir(parents=True, exist_ok=True)
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(worker)
    torch.save(find(sys.argv[1], folder)(), folder / f"ended.{worker}.pt")
