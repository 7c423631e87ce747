"""Values that are not finite any more are known by name, with the turn since when."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from motet.divergence import LASTING, Diverged, State, diverged_at_the_end, diverged_text, from_json, kind_of
from motet.events import Diverged as DivergedEvent
from motet.events import Event
from motet.gradients.nonfinite import FiniteCheck, _kind
from motet.testing import Gang

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 2.0], None),
        ([1.0, NAN, NAN], Diverged("NaN", 2)),
        ([NAN, 1.0], None),
        ([NAN, 1.0, -INF], Diverged("infinity", 3)),
        ([1.0, INF, NAN, NAN], Diverged("NaN", 2)),
        ([], None),
    ],
)
def test_how_a_curve_ends(values: list[float], expected: Diverged | None) -> None:
    assert diverged_at_the_end(range(1, len(values) + 1), values) == expected


def test_what_is_reported() -> None:
    state = State()
    state.note("gradients", 4, "NaN")
    assert state.text() == "gradients are NaN since turn 4"
    state.note("loss", 5, kind_of(INF))
    assert state.text() == "loss is infinity since turn 5"
    assert diverged_text(from_json(state.to_json())) == state.text()
    state.note("loss", 6, kind_of(0.5))
    state.note("gradients", 6, "")
    assert state.to_json() is None


def test_it_is_a_notice_once_it_lasts_or_when_the_job_ends() -> None:
    seen: list[Event] = []
    notices: list[tuple[str, str]] = []
    watch = FiniteCheck(seen.append, lambda job, text: notices.append((job, text)))
    for turn in range(1, LASTING):
        watch.logged("a", turn, {"loss": NAN})
    watch.logged("b", 3, {"loss": INF, "rate": 0.1})
    assert notices == []
    watch.logged("a", LASTING, {"loss": NAN})
    assert [job for job, _ in notices] == ["a"]
    assert "loss is NaN since turn 1" in notices[0][1]
    watch.logged("a", LASTING + 1, {"loss": 1.0})
    assert watch.ended("a") is None
    assert watch.ended("b") == {"loss": {"value": "infinity", "since_turn": 3}}
    assert [job for job, _ in notices] == ["a", "b"]
    reported = [(event.job, event.since_turn) for event in seen if isinstance(event, DivergedEvent)]
    assert reported == [("a", 1), ("b", 3), ("a", None)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64, torch.float8_e4m3fn])
def test_all_types_of_gradients_can_be_looked_at(dtype: torch.dtype) -> None:
    assert _kind(torch.ones(4).to(dtype)) == ""
    assert _kind(torch.full((4,), torch.finfo(torch.float16).max).to(dtype)) == "", "their sum may overflow"
    if dtype != torch.float8_e4m3fn:
        assert _kind(torch.tensor([1.0, NAN]).to(dtype)) == "NaN"
        assert _kind(torch.tensor([1.0, INF]).to(dtype)) == "infinity"


def gradients_on_one_worker() -> list[object]:
    """Let gradients become NaN and finite again; return what the watch says after each turn, and where it ends."""
    model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1)))
    seen: list[Event] = []
    watch = FiniteCheck(seen.append, lambda job, text: None)
    for turn, factor in enumerate((1.0, NAN, NAN, 1.0, NAN), start=1):
        model.zero_grad()
        (model(torch.ones(2, 4)) * factor).sum().backward()
        watch.synced("a", turn, [model])
    events = [(e.name, e.value, e.since_turn) for e in seen if isinstance(e, DivergedEvent)]
    return [events, watch.ended("a")]


def test_gradients_are_looked_at() -> None:
    with Gang(1) as gang:
        (value,) = gang.run(gradients_on_one_worker)
    assert value == [
        [("gradients", "NaN", 2), ("gradients", "", None), ("gradients", "NaN", 5)],
        {"gradients": {"value": "NaN", "since_turn": 5}},
    ]
