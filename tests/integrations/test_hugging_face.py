"""Hugging Face's Trainer and Accelerate, unmodified: weights and logged metrics are those of the run alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

TRAINER, ACCELERATE, PLAIN = "loops_hugging_face:train", "loops_accelerate:train", "loops_plain:train"
EqualAlone = Callable[..., dict[str, Any]]


def test_two_trainers(equal_alone: EqualAlone) -> None:
    # warmup, evaluation, saving, the best model loaded at the end, its own log, tqdm's bars
    told = equal_alone(TRAINER, TRAINER, order="round-robin")
    assert told["turns"] == told["expected"] == [8, 8]
    assert told["notices"] == []
    assert told["alternations"] > 14


@pytest.mark.parametrize(
    ("feature", "turns"), [("accumulate&smooth", 8), ("bf16", 8), ("generate", 8), ("stop_early", 6)]
)
def test_trainer(equal_alone: EqualAlone, feature: str, turns: int) -> None:
    told = equal_alone(f"{TRAINER}?{feature}", PLAIN)
    assert told["turns"] == [turns, 8]
    assert told["notices"] == []


def test_two_accelerators(equal_alone: EqualAlone) -> None:
    # prepare, clipping, gather_for_metrics, reduce, trackers, save_state, end_training
    told = equal_alone(ACCELERATE, ACCELERATE)
    assert told["turns"] == [16, 16]
    assert told["notices"] == []


@pytest.mark.parametrize(("feature", "turns"), [("accumulate", 6), ("bf16", 16), ("stop_early", 10)])
def test_accelerate(equal_alone: EqualAlone, feature: str, turns: int) -> None:
    told = equal_alone(f"{ACCELERATE}?{feature}", PLAIN)
    assert told["turns"] == [turns, 8]
    assert told["notices"] == []
