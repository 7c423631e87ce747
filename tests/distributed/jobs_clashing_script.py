"""A script that changes all that is global to a process, and notes all that another one could have changed."""

import argparse
import contextvars
import logging
import os
import pathlib
import pickle
import random
import sys
import warnings

import helper
import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel as DDP

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, required=True)
parser.add_argument("--mode", choices=["quiet", "loud"], required=True)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--out", required=True)
options = parser.parse_args()
loud = options.mode == "loud"
STATE = {"step": 0}
VARIABLE = contextvars.ContextVar("mode", default="unset")
seen = []


class Point:  # pickled by reference to __main__
    def __init__(self, step):
        self.step = step


def look():
    """Note all that another job could have changed."""
    main = sys.modules["__main__"]
    seen.append(
        [
            STATE["step"],
            main.STATE is STATE,
            main.options.mode,
            sys.argv[1:5],
            helper.NAME,
            helper.COUNT,
            sys.modules["helper"] is helper,
            pickle.loads(pickle.dumps(Point(STATE["step"]))).step,
            str(torch.get_default_dtype()),
            torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_anomaly_enabled(),
            os.path.basename(os.getcwd()),
            os.environ.get("MODE"),
            os.environ.get("LOUD"),
            len(warnings.filters),
            [str(type(h)) for h in logging.getLogger().handlers],
            logging.getLogger().level,
            VARIABLE.get(),
            sys.path[0] == os.path.dirname(os.path.abspath(__file__)),
            np.geterr()["over"],
            random.random(),
            float(np.random.rand()),
            float(torch.rand(())),
            torch.get_num_threads(),
            torch.backends.cuda.flash_sdp_enabled(),
            repr(torch.tensor(1 / 3, dtype=torch.float64)),
        ]
    )


os.chdir(os.path.dirname(os.path.abspath(__file__)))
os.environ["MODE"] = options.mode
VARIABLE.set(options.mode)
log = pathlib.Path(f"log-{os.environ['RANK']}.txt")
logging.basicConfig(filename=log, level=logging.DEBUG if loud else logging.ERROR, force=True)
if loud:
    os.environ["LOUD"] = "1"
    torch.set_default_dtype(torch.float64)
    torch.use_deterministic_algorithms(True)
    warnings.simplefilter("error")
    np.seterr(over="raise")
    torch.backends.cuda.enable_flash_sdp(False)
    torch.set_printoptions(precision=9)
else:
    warnings.simplefilter("ignore")
dist.init_process_group("gloo")
torch.manual_seed(1 if loud else 2)
np.random.seed(1 if loud else 2)
random.seed(1 if loud else 2)
width = options.width
model = DDP(nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.Linear(width, 1)))
optimizer = torch.optim.Adam(model.parameters(), lr=helper.RATE)
for step in range(options.steps):
    STATE["step"] = step
    torch.set_grad_enabled(True)
    x = torch.randn(8, 6) + float(np.random.randn()) + random.random() + dist.get_rank()
    loss = (model(x) - helper.target(x)).square().mean()
    optimizer.zero_grad()
    if loud:
        torch.set_grad_enabled(False)  # left on while the other one takes its turn
    if step == options.steps // 2:
        torch.manual_seed(step + dist.get_rank())
        np.random.seed(step)
        random.seed(step)
    look()
    loss.backward()
    look()
    optimizer.step()
    logging.info("step %d", step)
    if not loud:
        warnings.warn("of no interest here, an error in the other script", stacklevel=1)
        import late_helper

        seen.append(late_helper.NAME)
    else:
        try:
            warnings.warn("an error here", stacklevel=1)
            seen.append("ignored")
        except UserWarning:
            seen.append("raised")
    torch.save(len(seen), "relative.pt")
logging.shutdown()
state = {"seen": seen, "model": dict(model.state_dict()), "optimizer": optimizer.state_dict(), "log": log.read_text()}
torch.save(state, f"{options.out}-{dist.get_rank()}")
dist.destroy_process_group()
if loud:
    sys.exit(0)
