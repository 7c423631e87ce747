"""How long do many workers take to begin, and to end, with jobs that have next to nothing to compute?

    python benchmarks/many_workers.py --workers 16 --jobs 8        # about two minutes

Alone: one of the jobs under torchrun. From the command to the first backward on worker 0, to worker 0's last turn, and
to the command's end; and the most sockets that worker 0's process had then.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SCRIPT = """
import json, sys, time
import psutil, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(8, 8))
for step in range(20):
    model(torch.randn(4, 8)).sum().backward()
    if step == 0:
        first = time.time()
last = time.time()
sockets = [each for each in psutil.Process().net_connections("tcp") if each.status == psutil.CONN_ESTABLISHED]
if dist.get_rank() == 0:
    with open(sys.argv[1], "w") as file:
        json.dump([first, last, len(sockets)], file)
dist.destroy_process_group()
"""


def measure(words: list[str], folder: Path) -> str:
    """Run a command; return its seconds and the sockets."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    begin = time.time()
    subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, check=True, capture_output=True)
    end = time.time()
    reports = [json.loads(path.read_text()) for path in folder.glob("*.told")]
    first, last = min(each[0] for each in reports) - begin, max(each[1] for each in reports) - begin
    for path in folder.glob("*.told"):
        path.unlink()
    return f"first backward {first:5.1f} s, last turn {last:5.1f} s, end {end - begin:5.1f} s, " + (
        f"{max(each[2] for each in reports)} sockets"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--houses", nargs="+", default=["together", "process"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "train.py").write_text(SCRIPT)
        many = f"--nproc-per-node={options.workers}"
        alone = ["torch.distributed.run", "--standalone", many, "train.py", "alone.told"]
        print(f"alone    1 job : {measure(alone, folder)}", flush=True)
        for house in options.houses:
            for num_jobs in (1, options.jobs):
                each = [f"--each={number}.told" for number in range(num_jobs)]
                words = ["motet", "run", many, "train.py", *each, f"--house={house}", f"--run-dir={house}-{num_jobs}"]
                print(f"{house:8} {num_jobs} jobs: {measure(words, folder)}", flush=True)


if __name__ == "__main__":
    main()
