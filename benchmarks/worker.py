"""One process of a benchmark: takes commands as lines of JSON, answers each with one. Started by `gang`."""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from dataclasses import asdict

import torch
import torch.distributed as dist
from methods import measure


def main() -> None:
    """Join the group and serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what loops print is not an answer
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    dist.init_process_group("gloo")

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")
        answers.flush()

    def gate() -> None:
        answer(ready=True)
        sys.stdin.readline()

    answer(joined=True)
    for line in iter(sys.stdin.readline, ""):
        try:
            measured = measure(json.loads(line), gate)
        except BaseException:
            answer(error=traceback.format_exc())
            raise
        answer(**asdict(measured))
        gc.collect()


if __name__ == "__main__":
    main()
