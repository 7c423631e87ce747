"""Lightning's Trainer and Fabric, unmodified: weights, logged metrics and checkpoints are those of the run alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TRAINER, FABRIC, PLAIN = "loops_lightning:train", "loops_fabric:train", "loops_plain:train"
EqualAlone = Callable[..., dict[str, Any]]


def test_two_trainers(equal_alone: EqualAlone) -> None:
    # callbacks, ModelCheckpoint, sync_dist logging, validation, CSV log, learning-rate schedule, rich's progress bars
    report = equal_alone(TRAINER, TRAINER, order="round-robin")
    assert report["turns"] == [8, 8]
    assert report["notices"] == []
    assert report["alternations"] > 14


@pytest.mark.parametrize(
    ("feature", "turns", "expected"),
    [
        ("accumulate", 4, 4),
        ("adversaries", 16, None),
        ("bf16", 8, 8),
        ("clip&tqdm", 8, 8),
        ("manual", 16, None),
        ("seeded", 8, 8),
        ("steps", 6, 6),
        ("stop_early", 8, 20),
    ],
)
def test_trainer(equal_alone: EqualAlone, feature: str, turns: int, expected: int | None) -> None:
    report = equal_alone(f"{TRAINER}?{feature}", PLAIN, order="round-robin")
    assert report["turns"] == [turns, 8]
    assert report["expected"] == [expected, None], "read from the trainer"
    assert report["notices"] == []
    assert report["alternations"] >= min(2 * turns, 16) - 1, "the turns end where its backward returns"


def test_two_fabrics(equal_alone: EqualAlone) -> None:
    report = equal_alone(FABRIC, FABRIC)
    assert report["turns"] == [16, 16]
    assert report["notices"] == []


@pytest.mark.parametrize(("feature", "turns"), [("accumulate", 8), ("bf16", 16)])
def test_fabric(equal_alone: EqualAlone, feature: str, turns: int) -> None:
    report = equal_alone(f"{FABRIC}?{feature}", PLAIN)
    assert report["turns"] == [turns, 8]
    assert report["notices"] == []
