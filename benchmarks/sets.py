"""The sets of jobs that are measured: names, loops, arguments, and how many steps each takes in one unit of work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BenchJob:
    """One job: ``loop`` is ``module:function`` below ``jobs``; it takes ``steps`` steps in one unit of work."""

    loop: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 1


_SMALL = {"width": 192, "num_layers": 6, "batch": 2}
_MEDIUM = {"width": 256, "num_layers": 4, "batch": 2}
_NARROW = {"width": 128, "num_layers": 4, "batch": 6}

SETS: dict[str, dict[str, BenchJob]] = {
    # Two equal transformers, as in a sweep.
    "twins": {name: BenchJob("language:transformer", {"seed": seed}) for seed, name in enumerate(("left", "right"))},
    # One that computes, one that sends.
    "complementary": {
        "transformer": BenchJob("language:transformer", _NARROW),
        "recommender": BenchJob("recommender:recommender"),
    },
    "mixed four": {
        "transformer": BenchJob("language:transformer", _MEDIUM),
        "narrow": BenchJob("language:transformer", _NARROW),
        "recommender": BenchJob("recommender:recommender"),
        "images": BenchJob("images:conv_net"),
    },
    "eight small": {f"small{seed}": BenchJob("language:transformer", {**_SMALL, "seed": seed}) for seed in range(8)},
    # Unequal in everything, length included; all begin together.
    "heterogeneous six": {
        "transformer": BenchJob("language:transformer", _MEDIUM, steps=2),
        "narrow": BenchJob("language:transformer", _NARROW, steps=1),
        "recommender": BenchJob("recommender:recommender", steps=3),
        "items": BenchJob("recommender:recommender", {"num_users": 10_000, "num_items": 10_000}, steps=1),
        "images": BenchJob("images:conv_net", steps=2),
        "wide-images": BenchJob("images:conv_net", {"width": 192, "num_blocks": 2}, steps=1),
    },
    # Few turns with much to send, many with little: what travels and what computes take about as long in all.
    "unequal": {
        "embedding": BenchJob("recommender:recommender", {"num_users": 120_000, "num_items": 60_000}, steps=1),
        "conv": BenchJob("images:conv_net", {"width": 16, "num_blocks": 4, "batch": 768}, steps=10),
    },
    # Never looked at while the simulation was made (benchmarks/validate_simulation.py).
    "unseen trio": {
        "narrow": BenchJob("language:transformer", _NARROW, steps=2),
        "items": BenchJob("recommender:recommender", {"num_users": 10_000, "num_items": 10_000}, steps=3),
        "images": BenchJob("images:conv_net", {"width": 64, "num_blocks": 3}, steps=4),
    },
    "unseen five": {
        **{
            f"small{seed}": BenchJob("language:transformer", {**_SMALL, "seed": seed}, steps=seed) for seed in (1, 2, 3)
        },
        "recommender": BenchJob("recommender:recommender", {"num_users": 30_000, "num_items": 5_000}, steps=1),
        "images": BenchJob("images:conv_net", {"width": 96, "num_blocks": 2}, steps=3),
    },
    "one alone": {"transformer": BenchJob("language:transformer", _MEDIUM)},
    # For the cost of a turn.
    "sixteen tiny": {f"tiny{seed}": BenchJob("tiny:tiny", {"seed": seed}) for seed in range(16)},
    "two tiny": {f"tiny{seed}": BenchJob("tiny:tiny", {"seed": seed}) for seed in range(2)},
}
