"""What Motet's own threads find while jobs train. For workers only."""

from __future__ import annotations

import threading
from typing import Any

import torch
from tests.distributed.jobs_saving import summary_of, together
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import motet
from motet.checkpoints import CheckpointPart, Checkpoints
from motet.same_files import hook


def who_writes(place: str) -> dict[str, Any]:
    """Save in two jobs; tell of which job Motet's thread is that writes, by its name."""
    threads: dict[str, str | None] = {}
    original = Checkpoints.write_part

    def write_part(checkpoints: Checkpoints, turn: int, name: str, payload: object) -> CheckpointPart:
        threads[threading.current_thread().name] = hook._listening.job() if hook._listening else "not asked"
        return original(checkpoints, turn, name, payload)

    def loop() -> None:
        model = DistributedDataParallel(nn.Linear(6, 2))
        start = motet.current_job().checkpoint(model=model, every_turns=1)
        for _ in range(4):
            model(torch.ones(4, 6)).sum().backward()
            start.save_point()

    Checkpoints.write_part = write_part  # type: ignore[method-assign]
    try:
        results = together(place, {"first": loop, "second": loop})
    finally:
        Checkpoints.write_part = original  # type: ignore[method-assign]
    return summary_of(results) | {"threads": threads}
