"""Run loops of the bit-identity suite, one after another in one process: ``identity_script.py FIRST STEP --out FILE``.

Those of the table from number ``FIRST`` on, each ``STEP``-th. What each saw, and how it ended, goes to a file.
"""

from __future__ import annotations

import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from tests.distributed.identity import find, seed_everything
from tests.distributed.tables import LOOPS

first, step, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[4]
if __name__ == "__main__":
    dist.init_process_group("gloo", timeout=timedelta(seconds=90))
    for loop in list(LOOPS)[first::step]:
        name = LOOPS[loop].alone or loop  # what joins a group of its own, or ends it, would end those after it
        seed_everything()
        record = find(name)()
        torch.save(record, f"{out}.{loop.replace(':', '.')}.{dist.get_rank()}.pt")
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False)
    dist.destroy_process_group()
