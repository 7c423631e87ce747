"""Random generators as plain data."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.unit.checkpoints.test_payload import through_a_file

from motet.checkpoints import random_generators, restore_random_generators, snapshot
from motet.errors import CheckpointError


@pytest.fixture(autouse=True)
def generators_as_before() -> Iterator[None]:
    bit_generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    saved = torch.get_rng_state(), np.random.get_state(), random.getstate()
    yield
    np.random.set_bit_generator(bit_generator)  # type: ignore[attr-defined]
    torch.set_rng_state(saved[0])
    np.random.set_state(saved[1])
    random.setstate(saved[2])


def draws() -> list[float]:
    return [
        *torch.randn(3).tolist(),
        np.random.normal(),
        np.random.normal(),
        float(np.random.randint(1 << 30)),
        random.gauss(0, 1),
        random.gauss(0, 1),
        random.random(),
    ]


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "Philox", "SFC64"])
@pytest.mark.parametrize("half_drawn", [False, True])
def test_what_is_drawn_next_is_the_same(kind: str, half_drawn: bool) -> None:
    np.random.set_bit_generator(getattr(np.random, kind)(7))  # type: ignore[attr-defined]
    if half_drawn:  # both keep the second of a pair of normal numbers for the next call
        np.random.normal()
        random.gauss(0, 1)
        torch.randn(1)
    saved = through_a_file(snapshot(random_generators()))
    expected = draws()
    np.random.set_bit_generator(np.random.MT19937(0))  # type: ignore[attr-defined]
    random.seed(0)
    torch.manual_seed(0)
    assert draws() != expected
    assert restore_random_generators(saved) == ()
    assert draws() == expected


def test_saving_draws_nothing() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    expected = draws()
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    random_generators()
    assert draws() == expected


@pytest.mark.skipif(torch.accelerator.is_available(), reason="tells of a missing accelerator")
def test_names_generators_that_this_machine_lacks() -> None:
    states = random_generators() | {"accelerator": {"type": "cuda", "states": [torch.zeros(16, dtype=torch.uint8)]}}
    (note,) = restore_random_generators(states)
    assert "cuda" in note


@pytest.mark.parametrize(
    "damage",
    [
        {"python": None},
        {"python": {"version": 3, "words": b"123", "gauss": None}},
        {"torch": None},
        {"torch": torch.zeros(3, dtype=torch.uint8)},
        {"torch": torch.zeros(5056)},
        {"numpy": 3},
        {"numpy": {"bit_generator": "seed"}},
        {"numpy": {"bit_generator": "MT19937", "state": {"key": torch.zeros(3), "pos": 0}}},
        {"accelerator": 1},
    ],
)
def test_refuses_other_data(damage: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="random generators"):
        restore_random_generators(random_generators() | damage)


def test_refuses_missing_generators() -> None:
    with pytest.raises(CheckpointError, match="random generators"):
        restore_random_generators({})
