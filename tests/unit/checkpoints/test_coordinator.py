"""A checkpoint is due when its time has come, and committed when every worker has written its part; not before."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from motet.checkpoints.coordinator import Coordinator, JobSaver, _Save
from motet.checkpoints.manifest import CheckpointPart
from motet.checkpoints.policy import RecoveryPolicy


class Writer:
    """Stands for the thread that writes: keeps what it is to commit."""

    def __init__(self) -> None:
        self.committed: list[list[CheckpointPart]] = []

    def commit(self, checkpoints: Any, turn: int, parts: list[CheckpointPart]) -> None:
        self.committed.append(parts)


def test_no_checkpoint_is_committed_with_a_part_missing() -> None:
    published: dict[str, str] = {}
    workers: Any = SimpleNamespace(worker=0, num_workers=3, lookup=published.get, unpublish=published.pop)
    coordinator = Coordinator(workers, RecoveryPolicy(), lambda job, text: None, lambda error: None)
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


def test_a_checkpoint_is_due_by_the_clock_to_the_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers: Any = SimpleNamespace(worker=0, num_workers=1, broadcast_from_0=lambda make_text, **_: make_text())
    coordinator = Coordinator(workers, RecoveryPolicy(tmp_path), lambda job, text: None, lambda error: None)
    saved: list[int] = []
    monkeypatch.setattr(coordinator, "write", lambda checkpoints, turn, payloads: saved.append(turn))
    job: Any = SimpleNamespace(name="a", num_synced=0, turn=1, go_on_after=lambda turns: None)
    saver = JobSaver(coordinator, job)
    coordinator.tick(1000.0)
    saver.begin({"model": nn.Linear(1, 1)}, None, 2.0, keep=1)
    for clock_seconds, expected in [(1119.0, []), (1120.0, [2]), (1239.0, [2]), (1240.0, [2, 4]), (1400.0, [2, 4, 5])]:
        coordinator.tick(clock_seconds)
        job.num_synced += 1
        saver.save_point()
        assert saved == expected, f"at {clock_seconds} s"
