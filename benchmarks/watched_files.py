"""What it costs to watch the files of jobs: of a run on one worker whose two jobs save 25 MB a second.

    python benchmarks/watched_files.py [SECONDS]

Prints the share of the process's processor time that was spent in what is called for each event, at each turn, and in
the events of Python that nobody asked for (their number times what one costs, measured here). Nothing is subtracted
from anything: on a machine with other work, two runs differ by more than what is looked for.
"""

from __future__ import annotations

import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

import motet
from motet.same_files import SameFiles, hook

MEGABYTES = 25
spent: dict[str, float] = {}
counts: dict[str, int] = {}


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that adds up how much processor time each call took."""

    def call(*args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] = spent.get(name, 0.0) + time.thread_time() - begin
            counts[name] = counts.get(name, 0) + 1

    return call


def job(folder: Path, seconds: float) -> None:
    """Train a small transformer, and save 25 MB a second."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = DistributedDataParallel(torch.nn.TransformerEncoder(layer, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    kept = torch.zeros(MEGABYTES * 250_000)
    due = begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        optimizer.zero_grad()
        model(torch.randn(8, 32, 64)).square().mean().backward()
        optimizer.step()
        if time.monotonic() >= due:
            due += 1.0
            torch.save({"kept": kept, "model": model.state_dict()}, folder / "checkpoint.pt")


def main() -> None:
    """Run, and print."""
    torch.set_num_threads(1)
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 20.0
    for name in ("writes", "may_write", "removes", "renames", "appends", "makes", "turn_begins", "turn_ended"):
        setattr(SameFiles, name, timed(name, getattr(SameFiles, name)))
    events = 0

    def count(event: str, args: Any) -> None:
        nonlocal events
        events += 1

    with tempfile.TemporaryDirectory() as place:
        folders = [Path(place, name) for name in ("a", "b")]
        for folder in folders:
            folder.mkdir()
        begin = time.process_time()
        results = motet.run({folder.name: partial(job, folder, seconds) for folder in folders})
        took_all = time.process_time() - begin
        sys.addaudithook(count)  # from now on: a few turns, to know how many events a turn has
        short = motet.run({"a": partial(job, folders[0], 2.0)})
    num_turns = sum(each.turns for each in results.jobs.values())
    per_turn = events / sum(each.turns for each in short.jobs.values())
    each_seconds = min(timeit.repeat(lambda: hook._hook("builtins.id", ()), number=10_000)) / 10_000
    spent["events"], counts["events"] = per_turn * num_turns * each_seconds, round(per_turn * num_turns)
    for name, took in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:12} {counts[name]:9} calls {took:8.4f} s {took / took_all:9.4%}")
    share = sum(spent.values()) / took_all
    print(f"{'all':12} {num_turns:9} turns {sum(spent.values()):8.4f} s {share:9.4%} of {took_all:.1f} s")


if __name__ == "__main__":
    main()
