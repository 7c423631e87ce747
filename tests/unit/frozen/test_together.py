"""The frozen weights of jobs that live together, from turn to turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from motet.frozen import together
from motet.frozen.together import HeldOnce

SIDE = 520  # 1.08 MB


def frozen() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(SIDE, SIDE, bias=False).requires_grad_(False)


class Run:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notices: list[tuple[str | None, str]] = []
        self.held = HeldOnce(lambda job, text: self.notices.append((job, text)))
        self.layers = {name: frozen() for name in "abc"}
        self.at = ""
        monkeypatch.setattr(together, "modules_here", lambda: [self.layers[self.at]])
        monkeypatch.setattr(together, "has_grown", lambda allocated: True)

    def turns(self, turn: int, names: str = "abc") -> None:
        for self.at in names:
            self.held.turn_begins(self.at)
            self.held.turn_ended(self.at, turn, self.layers, len(self.layers))

    @property
    def shared(self) -> list[bool]:
        return [not layer.weight.untyped_storage().resizable() for layer in self.layers.values()]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    run = Run(monkeypatch)
    yield run
    run.held.close()


def test_all_share_after_their_first_turns(run: Run) -> None:
    run.turns(1)
    assert run.shared == [True, True, True]
    assert run.notices == [(None, "3 jobs share 1.1 MB of frozen weights: 2.2 MB saved")]
    run.layers["a"].weight.data.zero_()
    assert torch.equal(run.layers["b"].weight, frozen().weight)
    assert [run.held.ended(job) for job in "abc"] == 3 * [4 * SIDE * SIDE]
    assert run.held._files == {}


def test_a_turn_given_away_before_the_first_is_not_the_first(run: Run) -> None:
    layers, run.layers = run.layers, {name: nn.Linear(2, 2) for name in "abc"}
    run.turns(0)
    run.layers = layers
    run.turns(1)
    assert run.shared == [True, True, True]


def test_what_fails_costs_the_job_its_sharing_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.turns(1, "a")
    find = together.JobWeights.find

    def fail(weights: together.JobWeights, modules: list[nn.Module]) -> None:
        if modules[0] is run.layers["b"]:
            raise LookupError("of our own")
        find(weights, modules)

    monkeypatch.setattr(together.JobWeights, "find", fail)
    run.turns(1, "bc")
    run.turns(2)
    assert run.shared == [True, False, True]
    assert run.notices[0] == (
        "b",
        "holds frozen weights by itself that it might share with other jobs: LookupError: of our own",
    )
    assert len(run.notices) == 2


def test_what_is_in_use_is_shared_in_a_later_turn(run: Run) -> None:
    x = torch.ones(1, SIDE, requires_grad=True)
    run.turns(1, "a")
    graph = run.layers["a"](x)  # holds the weight, as a collective under way does
    run.turns(1, "bc")
    assert run.shared == [False, True, True]
    for turn in (2, 3):
        run.turns(turn)
    assert run.shared == [False, True, True]
    assert [job for job, _ in run.notices] == [None, "a"]
    graph.sum().backward()
    run.turns(4)
    assert run.shared == [False, True, True], "it is tried in turns that are further and further apart"
    run.turns(6)
    assert run.shared == [True, True, True]
    assert run.notices[-1] == (None, "3 jobs share 1.1 MB of frozen weights: 2.2 MB saved")


def test_what_is_written_all_over_is_given_back(run: Run) -> None:
    run.turns(1)
    run.layers["a"].weight.data.add_(1)
    run.turns(3)
    assert run.held._register.shared_bytes("a") == 0
    assert torch.equal(run.layers["a"].weight, frozen().weight + 1)


def test_where_it_cannot_be_done_users_are_notified_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "can_share", lambda: False)
    run.turns(1)
    run.turns(2)
    assert [text for _, text in run.notices] == [together.WITHOUT]
    assert run.shared == [False, False, False]
