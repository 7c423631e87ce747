"""Two jobs and their worker, over sockets: who claims, who writes the file, who shares it, and when it goes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from motet.processes import own_weights
from motet.processes.channel import Channel
from motet.processes.job_messages import EndReport, FrozenReport, LogReport, NoticeReport
from motet.processes.own_weights import OwnWeights
from motet.processes.shared_weights import SharedWeights

SIDE = 520  # 1.08 MB


def frozen() -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(SIDE, SIDE, bias=False).requires_grad_(False)


def num_files() -> int:
    """Return how many files of weights are open in this process."""
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and link.exists()]
    return sum("motet-frozen" in link for link in links)


class Run:
    def __init__(self) -> None:
        self.notices: list[str] = []
        self.here: dict[str, Channel] = {}
        self.ends: list[Channel] = []
        self.jobs: dict[str, OwnWeights] = {}
        self.shared = SharedWeights(lambda job, text: self.notices.append(text), lambda job: self.here[job])

    def start(self, name: str) -> OwnWeights:
        here, there = socket.socketpair()
        ends = Channel(here), Channel(there)
        self.ends += ends
        self.here[name], self.jobs[name] = ends[0], OwnWeights(ends[1])
        return self.jobs[name]

    def look(self) -> None:
        for name, channel in self.here.items():
            for report in channel.received():
                if isinstance(report, NoticeReport):
                    self.notices.append(report.text)
                else:
                    assert isinstance(report, FrozenReport)
                    self.shared.receive(name, report)

    def turns(self, turn: int) -> None:
        for job in self.jobs.values():
            job.turn_ended(turn)
            self.look()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(own_weights, "ANSWER_SECONDS", 0.0)
    monkeypatch.setattr(own_weights, "modules_here", lambda: ())
    run = Run()
    yield run
    run.shared.close()
    for end in run.ends:
        end.close()


def test_two_jobs_share_a_file_that_the_second_writes(run: Run) -> None:
    layers = [frozen(), frozen()]
    for name, layer in zip("ab", layers, strict=True):
        run.start(name).built(layer)
        run.look()
    for turn in (1, 2):
        run.turns(turn)
    assert run.shared.ended("a") == 4 * SIDE * SIDE
    assert run.notices == ["2 jobs share 1.1 MB of frozen weights: 1.1 MB saved"]
    assert layers[0].weight.data_ptr() != layers[1].weight.data_ptr()
    assert not any(layer.weight.untyped_storage().resizable() for layer in layers)
    layers[0].weight.data.zero_()
    assert torch.equal(layers[1].weight, frozen().weight)


def test_a_job_that_comes_later_gets_the_file_from_the_worker(run: Run) -> None:
    layers = [frozen() for _ in range(3)]
    for name, layer in zip("ab", layers, strict=False):
        run.start(name).built(layer)
        run.look()
    run.turns(1)
    del run.here["b"], run.jobs["b"]  # the writer ends
    run.shared.ended("b")
    run.start("c").built(layers[2])
    run.look()
    run.turns(2)
    assert run.shared.ended("c") == 4 * SIDE * SIDE


def test_files_go_with_the_last_job(run: Run) -> None:
    layers = [frozen(), frozen()]
    for name, layer in zip("ab", layers, strict=True):
        run.start(name).built(layer)
        run.look()
    run.turns(1)
    run.turns(2)
    before = num_files()
    for name in "ab":
        run.shared.ended(name)
    assert num_files() == before - 1 == 0, "the worker has the only one"


def test_weights_that_are_written_all_over_are_given_up(run: Run) -> None:
    layers = [frozen(), frozen()]
    for name, layer in zip("ab", layers, strict=True):
        run.start(name).built(layer)
        run.look()
    run.turns(1)
    run.turns(2)
    layers[0].weight.data.add_(1)
    run.turns(3)
    assert run.shared._register.shared_bytes("b") == 0


def test_another_job_writes_when_the_one_that_was_asked_has_ended(run: Run) -> None:
    layers = [frozen() for _ in range(3)]
    for name, layer in zip("abc", layers, strict=True):
        run.start(name).built(layer)
        run.look()
    del run.here["b"], run.jobs["b"]  # it had been asked to write
    run.shared.ended("b")
    run.turns(1)
    run.turns(2)
    assert run.shared.ended("a") == run.shared.ended("c") == 4 * SIDE * SIDE


def test_weights_that_are_gone_when_they_are_to_be_written_are_reported(run: Run) -> None:
    layers = [frozen(), frozen()]
    for name, layer in zip("ab", layers, strict=True):
        run.start(name).built(layer)
        run.look()
    del layer, layers[1]
    run.turns(1)
    assert run.shared._register.claim("c", {}).write == []
    assert all(entry.claims == {"a"} for entry in run.shared._register._bytes.values())
    assert run.notices == []


def test_what_fails_costs_the_job_its_sharing_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [frozen() for _ in range(3)]
    for name, layer in zip("abc", layers, strict=True):
        run.start(name).built(layer)
        run.look()

    def fail(*args: object) -> None:
        raise LookupError("of our own")

    monkeypatch.setattr(run.jobs["b"]._weights, "write", fail)
    run.turns(1)
    run.turns(2)
    run.turns(3)
    assert run.notices[0] == (
        "holds frozen weights by itself that it might share with other jobs: LookupError: of our own"
    )
    assert run.shared.ended("b") == 0
    assert run.shared.ended("a") == run.shared.ended("c") == 4 * SIDE * SIDE


def test_a_file_that_does_not_come_costs_the_sharing_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [frozen() for _ in range(3)]
    for name, layer in zip("abc", layers, strict=True):
        run.start(name).built(layer)
        run.look()
    monkeypatch.setattr(run.ends[1], "take_file", lambda: None)  # at a's: too many are open
    for turn in (1, 2, 3):
        run.turns(turn)
    assert layers[0].weight.untyped_storage().resizable()
    assert run.shared.ended("a") == 0
    assert run.shared.ended("b") == run.shared.ended("c") == 4 * SIDE * SIDE


def test_what_is_in_use_is_shared_when_it_is_not(run: Run) -> None:
    layers = [frozen(), frozen()]
    for name, layer in zip("ab", layers, strict=True):
        run.start(name).built(layer)
        run.look()
    x = torch.ones(1, SIDE, requires_grad=True)
    graphs = [layer(x) for layer in layers]  # hold the weights, as a collective under way does
    for turn in (1, 2, 3, 4, 5):
        run.turns(turn)
    assert [notice.partition(",")[0] for notice in run.notices] == [
        "has frozen weights that other jobs may hold as well"
    ], "that of the job which was to write them for both"
    assert layers[0].weight.untyped_storage().resizable()
    for graph in graphs:
        graph.sum().backward()
    for turn in (6, 7, 8):
        run.turns(turn)
    assert not any(layer.weight.untyped_storage().resizable() for layer in layers)
    assert run.shared.ended("a") == 4 * SIDE * SIDE


def test_two_weights_with_equal_bytes_stay_two(run: Run) -> None:
    ours, other = nn.ModuleList([frozen(), frozen()]), frozen()
    for name, module in zip("ab", (ours, other), strict=True):
        run.start(name).built(module)
        run.look()
    run.turns(1)
    run.turns(2)
    assert not any(each.untyped_storage().resizable() for each in (*ours.parameters(), other.weight))
    ours[0].weight.data.zero_()
    assert torch.equal(ours[1].weight, other.weight)


def test_messages_with_a_file_stand_among_others() -> None:
    here, there = (Channel(end) for end in socket.socketpair())
    there.send(LogReport(1, {"loss": 0.5}))
    with open(os.devnull, "rb") as file:
        there.send(EndReport("finished", 3), file.fileno())
    assert [type(each) for each in here.received()] == [LogReport, EndReport]
    taken = here.take_file()
    assert taken is not None
    assert not os.get_inheritable(taken)
    os.close(taken)
    here.close()
    there.close()
