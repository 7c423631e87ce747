"""What may be saved, and that a snapshot is a copy."""

from __future__ import annotations

import enum
import io
from collections import Counter, OrderedDict, defaultdict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motet.checkpoints import check_plain, snapshot
from motet.checkpoints.payload import Copies
from motet.errors import CheckpointError


def through_a_file(payload: Any) -> Any:
    """Save and load as checkpoints do."""
    file = io.BytesIO()
    torch.save(payload, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Colour(enum.IntEnum):
    RED = 1


Point = namedtuple("Point", "x y")


class Marked(torch.Tensor):
    pass


def itself() -> list[Any]:
    holder: list[Any] = []
    holder.append(holder)
    return holder


REFUSED = [
    object(),
    print,
    Path("x"),
    Colour.RED,
    Point(1, 2),
    defaultdict(int),
    np.zeros(3),
    np.float32(1),
    frozenset({1}),
    range(3),
    itself(),
    {Colour.RED: 1},
    {Path("x"): 1},
    {Path("x")},
    1 << 5000,
    b"",
    torch.contiguous_format,
    torch.ones(2).as_subclass(Marked),
    torch.empty(2, device="meta"),
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_refuses_what_could_not_be_loaded_and_names_its_key(value: object) -> None:
    for refuse in (snapshot, check_plain):
        with pytest.raises(CheckpointError, match=r"optimizer\.state\[1\]"):
            refuse({"optimizer": {"state": [0, value]}})


atoms = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 1000), 1 << 1000)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(min_size=1)
)
keys = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
plain = st.recursive(
    atoms | st.complex_numbers(allow_nan=False) | st.sets(st.integers()),
    lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner),
)


@given(plain)
def test_whatever_is_accepted_can_be_loaded_again(payload: object) -> None:
    assert through_a_file(snapshot(payload)) == payload


def test_accepts_what_torch_keeps_in_states() -> None:
    payload = {
        "size": torch.Size([1, 2]),
        "dtype": torch.bfloat16,
        "device": torch.device("cpu"),
        "counter": Counter({3: 1}),
        "ordered": OrderedDict(a=1),
        "float": np.float64(0.1),
        "int": np.int64(3),
        "bool": np.bool_(True),
    }
    loaded = through_a_file(snapshot(payload))
    assert loaded == payload
    assert [type(loaded[key]) for key in ("float", "int", "bool")] == [float, int, bool]
    assert type(loaded["ordered"]) is OrderedDict


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(3, 4),
        torch.randn(3, 4).t(),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.randn(8)[::2],
        torch.randn(1).expand(4),
        torch.randn(3, dtype=torch.bfloat16),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.tensor(3),
        torch.empty(0, 5),
        torch.randn(3, 3).to_sparse(),
        torch.nn.Parameter(torch.randn(3)),
        torch.tensor([1, 2], dtype=torch.uint32),
        # large ones lie in memory of another kind
        torch.randn(300, 400).t(),
        torch.randn(2, 8, 96, 96).to(memory_format=torch.channels_last),
        torch.randn(200_000)[::2],
        torch.randn(1).expand(100_000),
        torch.randn(200_001, dtype=torch.bfloat16),
        torch.randn(60_000, dtype=torch.complex64).conj(),
        torch.randn(500_000) > 0,
    ],
    ids=lambda tensor: f"{type(tensor).__name__}-{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_a_tensor_comes_back_equal(tensor: torch.Tensor) -> None:
    loaded = through_a_file(snapshot({"x": tensor}))["x"]
    assert loaded.dtype == tensor.dtype
    assert torch.equal(loaded.to_dense(), tensor.detach().to_dense())
    if tensor.layout is torch.strided and tensor.is_contiguous(memory_format=torch.channels_last):
        assert loaded.stride() == tensor.stride()


def test_a_snapshot_does_not_follow_the_training_and_ties_stay_tied() -> None:
    weight = torch.ones(3)
    taken: Any = snapshot({"a": weight, "b": [weight], "c": weight[:2]})
    weight.add_(1)
    assert taken["a"].tolist() == [1, 1, 1]
    assert taken["b"][0] is taken["a"]
    assert taken["c"].tolist() == [1, 1]
    assert taken["c"].untyped_storage().nbytes() == 8, "a view brings only its own part to the file"


def test_copies_are_written_over_where_they_fit() -> None:
    copies: Copies = {}
    first: Any = snapshot({"a": torch.zeros(3), "b": torch.zeros(2), "c": torch.zeros(4)}, copies)
    second: Any = snapshot({"a": torch.ones(3), "b": torch.ones(5), "c": torch.ones(4).double()}, copies)
    assert second["a"] is first["a"]
    assert second["b"].tolist() == [1] * 5
    assert second["c"].dtype == torch.float64
    assert copies == {"a": second["a"], "b": second["b"], "c": second["c"]}


def test_keys_that_read_alike_get_memory_of_their_own() -> None:
    copies: Copies = {}
    for value in (0.0, 1.0):
        taken: Any = snapshot({1: torch.full((3,), value), "1": torch.full((3,), -value)}, copies)
    assert taken[1].tolist() == [1, 1, 1]
    assert taken["1"].tolist() == [-1, -1, -1]


def test_a_part_and_its_negative_are_not_tied() -> None:
    numbers = torch.tensor([1 + 2j, 3 + 4j])
    taken: Any = snapshot({"x": numbers.imag, "y": numbers.conj().imag})
    assert taken["x"].tolist() == [2, 4]
    assert taken["y"].tolist() == [-2, -4]


def test_copies_made_in_inference_mode_are_used_again_outside() -> None:
    copies: Copies = {}
    with torch.inference_mode():
        first: Any = snapshot({"x": torch.zeros(3)}, copies)
    second: Any = snapshot({"x": torch.ones(3)}, copies)
    assert second["x"] is first["x"]
    assert second["x"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("size", [3, 1_000_003])
def test_a_copy_brings_nothing_but_itself_to_the_file(size: int) -> None:
    taken: Any = snapshot({"x": torch.ones(size)})
    assert taken["x"].untyped_storage().nbytes() == taken["x"].nbytes


def test_tensors_that_were_tied_and_no_longer_are_get_memory_of_their_own() -> None:
    copies: Copies = {}
    tied = torch.zeros(3)
    snapshot({"a": tied, "b": tied}, copies)
    apart: Any = snapshot({"a": torch.ones(3), "b": torch.full((3,), 2.0)}, copies)
    assert apart["a"].tolist() == [1, 1, 1]
    assert apart["b"].tolist() == [2, 2, 2]


def test_a_modules_versions_are_saved_with_its_state() -> None:
    state = torch.nn.BatchNorm1d(2).state_dict()
    loaded = through_a_file(snapshot({"model": state}))["model"]
    assert loaded._metadata == state._metadata  # type: ignore[attr-defined]
