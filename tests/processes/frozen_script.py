"""Run loops on a frozen base, one after another: ``frozen_script.py KIND... --out FILE``.

What each saw goes to a file.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from tests.distributed.identity import find, seed_everything

kinds, out = sys.argv[1:-2], sys.argv[-1]
if __name__ == "__main__":
    dist.init_process_group("gloo")
    for kind in kinds:
        seed_everything()
        torch.save(find(f"jobs_frozen:{kind}")(), f"{out}.{kind}.{dist.get_rank()}.pt")
    dist.destroy_process_group()
