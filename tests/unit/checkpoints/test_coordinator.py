"""A checkpoint is committed when every worker has written its part of it, and not before."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

from motet.checkpoints.coordinator import Coordinator, _Save
from motet.checkpoints.manifest import CheckpointPart


class Writer:
    """Stands for the thread that writes: keeps what it is to commit."""

    def __init__(self) -> None:
        self.committed: list[list[CheckpointPart]] = []

    def commit(self, checkpoints: Any, turn: int, parts: list[CheckpointPart]) -> None:
        self.committed.append(parts)


def test_no_checkpoint_is_committed_with_a_part_missing() -> None:
    published: dict[str, str] = {}
    workers: Any = SimpleNamespace(worker=0, num_workers=3, lookup=published.get, unpublish=published.pop)
    coordinator = Coordinator(workers, None, lambda job, text: None, lambda error: None)
    writer: Any = Writer()
    coordinator._writer = writer
    mine, *others = (CheckpointPart(f"worker-{worker}.pt", 1, "0" * 16) for worker in range(3))
    save = _Save(SimpleNamespace(job="a"), 7)  # type: ignore[arg-type]
    save.parts[0] = [mine]
    for worker in (1, 2):
        coordinator._gather(save)
        assert not writer.committed
        report = {"parts": [asdict(others[worker - 1])], "error": None, "sent": {}}
        published[f"checkpoint/a/7/{worker}"] = json.dumps(report)
    coordinator._gather(save)
    assert writer.committed == [[mine, *others]]
    coordinator._gather(save)
    assert len(writer.committed) == 1, "once"
