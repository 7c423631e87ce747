"""Hugging Face's Trainer and Accelerate, unmodified: weights and logged metrics are those of the run alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TRAINER, ACCELERATE, PLAIN = "loops_hugging_face:train", "loops_accelerate:train", "loops_plain:train"
EqualAlone = Callable[..., dict[str, Any]]


def test_two_trainers(equal_alone: EqualAlone) -> None:
    # warmup, evaluation, saving, the best model loaded at the end, its own log, tqdm's bars
    report = equal_alone(TRAINER, TRAINER, order="round-robin")
    assert report["turns"] == report["expected"] == [8, 8]
    assert report["notices"] == []
    assert report["alternations"] > 14


@pytest.mark.parametrize(
    ("feature", "turns"), [("accumulate&smooth", 8), ("bf16", 8), ("generate", 8), ("stop_early", 6)]
)
def test_trainer(equal_alone: EqualAlone, feature: str, turns: int) -> None:
    report = equal_alone(f"{TRAINER}?{feature}", PLAIN)
    assert report["turns"] == [turns, 8]
    assert report["notices"] == []


def test_two_accelerators(equal_alone: EqualAlone) -> None:
    # prepare, clipping, gather_for_metrics, reduce, trackers, save_state, end_training
    report = equal_alone(ACCELERATE, ACCELERATE)
    assert report["turns"] == [16, 16]
    assert report["notices"] == []


@pytest.mark.parametrize(("feature", "turns"), [("accumulate", 6), ("bf16", 16), ("stop_early", 10)])
def test_accelerate(equal_alone: EqualAlone, feature: str, turns: int) -> None:
    report = equal_alone(f"{ACCELERATE}?{feature}", PLAIN)
    assert report["turns"] == [turns, 8]
    assert report["notices"] == []
