"""A program that takes its process for its own, in ten ways that public training code does: ``cases.py --tag TAG``.

Two of them in one process would print each other's lines, fail, or crash. What it prints is the same each time.
"""

from __future__ import annotations

import argparse
import builtins
import encodings
import importlib
import importlib.util
import logging
import os
import pkgutil
import queue
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile, schedule

parser = argparse.ArgumentParser()
parser.add_argument("--tag", required=True)
parser.add_argument("--number", type=int, required=True)
parser.add_argument("--packages", required=True)
options = parser.parse_args()


def say(*words: object) -> None:
    """Print a line of this kind's."""
    print(sys._getframe(1).f_code.co_name, *words)


def steps(num: int = 3, width: int = 4) -> Iterator[torch.Tensor]:
    """Train, and yield after each step what its loss was."""
    torch.manual_seed(options.number)
    net = DistributedDataParallel(nn.Linear(width, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(num):
        loss = net(torch.randn(8, width)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield loss.detach()


def rank_of_a_helper() -> None:
    """Ask before there is a process group, as helpers do that answer 'rank 0 of 1' then."""
    there = dist.is_available() and dist.is_initialized()
    say(f"rank {dist.get_rank()} of {dist.get_world_size()}" if there else "rank 0 of 1", os.environ["RANK"])


def background_thread() -> None:
    """Have a thread make batches with Python's own generator."""
    random.seed(options.number)
    batches: queue.Queue[float | None] = queue.Queue(maxsize=2)

    def produces() -> None:
        for _ in range(10):
            batches.put(random.random())
        batches.put(None)

    threading.Thread(target=produces, daemon=True).start()
    losses = steps(10)
    while (batch := batches.get()) is not None:
        say(batch, next(losses).item())


def named_logger() -> None:
    """Log through a logger with a name, to which each program adds its own handler."""
    logger = logging.getLogger("trainer")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(sys.stdout))
    for loss in steps():
        logger.info("%s %s %.6f", options.tag, len(logger.handlers), loss.item())


def own_operator() -> None:
    """Define an operator, with another formula in each program."""
    library = torch.library.Library("ownop", "DEF")
    library.define("scaled(Tensor x) -> Tensor")
    library.impl("scaled", lambda x: x * options.number, "CompositeImplicitAutograd")
    for loss in steps():
        say(torch.ops.ownop.scaled(loss).item(), torch.ops.ownop.scaled(torch.ones(())).item())


def package_elsewhere() -> None:
    """Keep the name of the output in a global of a package that is not the script's."""
    sys.path.append(options.packages)
    toolbox: Any = importlib.import_module("toolbox_elsewhere")
    toolbox.name = options.tag
    for _ in steps():
        say(toolbox.name)


def profiles() -> None:
    """Profile three steps."""

    def ready(found: Any) -> None:
        say(sum(event.count for event in found.key_averages() if event.key == "aten::linear"), "linear calls")

    plan = schedule(wait=1, warmup=1, active=3, repeat=1)
    with profile(activities=[ProfilerActivity.CPU], schedule=plan, on_trace_ready=ready) as found:
        for _ in steps(8, width=8 * options.number):
            found.step()


def thread_imports() -> None:
    """Import many modules in a thread while training."""

    def imports() -> None:
        for module in pkgutil.iter_modules(encodings.__path__):
            if module.name not in ("mbcs", "oem"):  # another system's
                importlib.import_module("encodings." + module.name)

    thread = threading.Thread(target=imports)
    losses = steps(60)
    next(losses)
    thread.start()
    for loss in losses:
        last = loss.item()
    thread.join()
    say(last)


def hydra_main() -> None:
    """Start through hydra, whose configuration is one for a process."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig

    ConfigStore.instance().store(name="plain", node={"lr": 0.5})
    sys.argv[1:] = [f"lr={options.number}", "hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=disabled"]

    @hydra.main(version_base=None, config_name="plain")
    def main(config: Any) -> None:
        for loss in steps():
            print("hydra_main", config.lr, list(HydraConfig.get().overrides.task), loss.item())

    main()


def absl_flags() -> None:
    """Define a flag with absl, whose flags are one set for a process."""
    from absl import flags

    flags.DEFINE_float("lr", 0.5, "")
    flags.FLAGS(["program", f"--lr={options.number}"])
    for loss in steps():
        say(flags.FLAGS.lr, loss.item())


def print_hook() -> None:
    """Replace print: it puts a tag before each line, and silences all workers but the first."""
    plain = builtins.print

    def tagged(*words: Any, force: bool = False, **more: Any) -> None:
        if dist.get_rank() == 0 or force:
            plain(f"{options.tag}|", *words, **more)

    builtins.print = tagged
    for loss in steps():
        say(loss.item())
    print("worker", dist.get_rank(), force=True)
    builtins.print = plain


def has(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


if __name__ == "__main__":
    rank_of_a_helper()
    dist.init_process_group("gloo")
    rank_of_a_helper()
    for kind in (background_thread, named_logger, own_operator, package_elsewhere, profiles, thread_imports):
        kind()
    if has("hydra"):
        hydra_main()
    if has("absl"):
        absl_flags()
    print_hook()
    print("in", Path.cwd().name, "as", sys.argv[0].rpartition("/")[2])
    dist.destroy_process_group()
    rank_of_a_helper()
