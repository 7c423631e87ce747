"""What it costs to watch the files of jobs: two jobs on one worker, each of which saves 25 MB about once a second.

    python benchmarks/watched_files.py [--seconds 80] [--house process]

Within one run, watching is on for one checkpoint and off for the next, in alternation. A stretch is the same work each
time: so many turns, and a checkpoint. Told is the median, with the quartiles, of the ratios of neighbouring stretches,
for the time that passes and for the processor's. What cannot be switched off is counted: Python's audit events call the
hook also when nobody listens, so their number is multiplied by what one costs.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import timeit
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from alternate import spread
from torch.nn.parallel import DistributedDataParallel

import motet
from motet.same_files import hook, watch

MEGABYTES = 25
STRETCH_SECONDS = 1.0
Stretches = list[tuple[float, float, int]]


class Watching:
    """Switches watching off and on again, in the process of a job that runs."""

    def __init__(self) -> None:
        assert watch._active is not None
        self._files = watch._active
        self._handlers = dict(hook._handlers)

    def switch(self, on: bool) -> None:
        """Have files watched from now on, or not."""
        hook._handlers.clear()
        hook._handlers.update(self._handlers if on else {})
        watch._active = self._files if on else None
        for name in ("turn_begins", "turn_ended"):
            if on:
                vars(self._files).pop(name, None)
            else:
                setattr(self._files, name, lambda job: None)


def train(folder: Path, num_stretches: int) -> Stretches:
    """Train a small transformer, save 25 MB in each stretch; return seconds, processor seconds and events of each."""
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = DistributedDataParallel(torch.nn.TransformerEncoder(layer, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    kept = torch.zeros(MEGABYTES * 250_000)
    events = 0

    def count(event: str, args: Any) -> None:
        nonlocal events
        events += 1

    def stretch(num_turns: int) -> tuple[float, float, int]:
        begin, processor, before = time.monotonic(), time.process_time(), events
        for _ in range(num_turns):
            optimizer.zero_grad()
            model(torch.randn(8, 32, 64)).square().mean().backward()
            optimizer.step()
        torch.save({"kept": kept, "model": model.state_dict()}, folder / "checkpoint.pt")
        return time.monotonic() - begin, time.process_time() - processor, events - before

    stretch(20)
    num_turns = max(1, round(STRETCH_SECONDS / (stretch(20)[0] / 20)))
    watching, found = Watching(), []
    gc.collect()
    gc.disable()
    for number in range(num_stretches):
        # On, off, off, on, ...: what gets slower by and by hits both alike.
        watching.switch(number % 4 in (0, 3))
        found.append(stretch(num_turns))
    watching.switch(True)
    sys.addaudithook(count)
    found.append(stretch(num_turns))
    gc.enable()
    return found


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=80.0)
    parser.add_argument("--house", default="together")
    options = parser.parse_args()
    torch.set_num_threads(1)
    num_stretches = max(4, int(options.seconds / STRETCH_SECONDS) // 4 * 4)
    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, name) for name in ("a", "b")]
        for folder in folders:
            folder.mkdir()
        jobs = {folder.name: partial(train, folder, num_stretches) for folder in folders}
        order = {"order": "a,b"} if options.house == "together" else {}
        results = motet.run(jobs, house=options.house, **order)  # type: ignore[arg-type]
    of_a = results["a"].result
    assert isinstance(of_a, list), results["a"].error
    *stretches, (seconds, processor, events) = of_a
    print(f"{len(stretches)} stretches of {seconds:.2f} s, --house {options.house}")
    for name, column in (("time", 0), ("processor time", 1)):
        ratios = []
        for first in range(0, len(stretches), 2):
            one, other = stretches[first][column], stretches[first + 1][column]
            ratios.append(one / other if first % 4 == 0 else other / one)
        print(f"{name:15} watched / not watched: {spread(ratios)}")
    each_seconds = min(timeit.repeat(lambda: hook._hook("builtins.id", ()), number=10_000)) / 10_000
    share = events * each_seconds / processor
    print(f"{'audit events':15} {events / seconds:.0f} a second: {share:.4%} of the processor time")


if __name__ == "__main__":
    main()
