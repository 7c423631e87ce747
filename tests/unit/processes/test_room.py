"""Jobs in processes of their own join where there is room in memory on every worker; what they take is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from motet.processes import room as room_module
from motet.processes.decider import Decider
from motet.processes.exchange import Exchange
from motet.processes.family import family, memory_bytes
from motet.processes.job_messages import HoldingsReport
from motet.processes.messages import Conclude, ExitReport, Message, Notify, RoomReport, StartJob
from motet.processes.process_job import ProcessJob
from motet.processes.room import Holdings, Room
from motet.processes.search import ListedSource
from motet.results import JobResult

GB = 1e9
FITS, FULL = [8 * GB, 1 * GB, 10 * GB], [1.5 * GB, 1 * GB, 10 * GB]  # a tenth stays free
TAKES_MEMORY = """
import subprocess, sys
taken = bytearray(50_000_000)
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
print(flush=True)
sys.stdin.readline()
"""


class TwoWorkers(Exchange):
    """Worker 0's exchange of two, of which only what is broadcast counts."""

    def __init__(self) -> None:
        super().__init__(None, 0, 1)  # type: ignore[arg-type]
        self.num_workers = 2
        self.sent: list[Message] = []

    def broadcast(self, message: Any) -> None:
        self.sent.append(message)

    def take(self, kind: type) -> list[Any]:
        """Return what of a kind was broadcast since the last time."""
        found = [message for message in self.sent if isinstance(message, kind)]
        self.sent = [message for message in self.sent if not isinstance(message, kind)]
        return found


def decider_of(exchange: TwoWorkers, *names: str) -> Decider:
    source = ListedSource([ProcessJob(name, None, None) for name in names])
    made = Decider(
        exchange, source, None, len(names), True, lambda name, attempt, verdict: False, lambda name, text: None
    )
    made.begin()
    return made


def reports(made: Decider, num_changes: int, *hosts: list[float], device: list[float] | None = None) -> None:
    for worker, host in enumerate(hosts):
        made.receive(worker, RoomReport(num_changes, host, device))


def ends(made: Decider, exchange: TwoWorkers, name: str) -> None:
    for worker in range(2):
        made.receive(worker, ExitReport(name, 0, "finished", 5, "", None, 0, ""))
    assert [end.name for end in exchange.take(Conclude)] == [name]
    made.concluded(name, JobResult("finished", 5, 0.0, 0.0, 0.0))


def test_a_job_joins_when_all_have_settled_and_it_fits_on_every_worker() -> None:
    exchange = TwoWorkers()
    made = decider_of(exchange, "a", "b", "c", "d")
    assert [start.name for start in exchange.take(StartJob)] == ["a"]
    reports(made, 1, FITS)
    assert not exchange.take(StartJob), "the other worker has not reported"
    reports(made, 1, FITS, FITS)
    assert [start.name for start in exchange.take(StartJob)] == ["b"]
    reports(made, 1, FITS, FITS)
    assert not exchange.take(StartJob), "what was free before b started counts no more"
    reports(made, 2, FITS, FULL)
    assert not exchange.take(StartJob)
    (notice,) = exchange.take(Notify)
    assert notice.name is None
    assert "2 of the jobs are running. The largest takes 1.0 GB, 1.5 GB are free" in notice.text
    ends(made, exchange, "a")
    assert not exchange.take(StartJob), "it is not known yet whether that has made room"
    reports(made, 3, FITS, FULL)
    assert not exchange.take(StartJob)
    ends(made, exchange, "b")
    assert [start.name for start in exchange.take(StartJob)] == ["c"], "one job runs in any case"
    reports(made, 5, FITS, FITS, device=FULL)
    assert not exchange.take(StartJob), "on a device there is no room"
    reports(made, 5, FITS, FITS, device=FITS)
    assert [start.name for start in exchange.take(StartJob)] == ["d"]


def holdings(turn: int, parameters: int = 10) -> HoldingsReport:
    held = {"parameters_bytes": parameters, "gradients_bytes": 20, "optimizer_bytes": 30, "activations_bytes": None}
    return HoldingsReport(turn, {**held, "device": "cpu", "offload_bytes": 0, "process_bytes": 20_000_000}, None)


def test_a_worker_reports_once_after_each_change_when_all_its_jobs_have_settled() -> None:
    room, me = Room(1), os.getpid()
    room.started("a")
    assert room.report({"a": me}) is None
    room.receive("a", holdings(1))
    assert room.report({"a": me}) is None
    room.receive("a", holdings(3, parameters=5))
    reported = room.report({"a": me})
    assert reported is not None
    assert reported.num_changes == 1
    assert reported.host[1] > 10e6, "what this process takes"
    assert room.report({"a": me}) is None
    room.started("b")
    assert room.report({"a": me, "b": me}) is None
    room.receive("b", holdings(3))
    assert room.report({"a": me, "b": me}) is not None
    room.concluded()
    assert room.report({"b": me}) is not None
    held = room.of("a")
    assert held is not None
    assert held["parameters_bytes"] == 10, "the most that was seen"
    assert held["process_bytes"] == 20_000_000
    assert Holdings().report(1, []).holdings["process_bytes"] > 10e6, "what this process takes"


def test_a_job_that_takes_no_turns_counts_once_its_process_grows_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    took = iter([int(1 * GB), int(2 * GB), int(2.1 * GB)])
    monkeypatch.setattr(room_module, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(room_module, "memory_bytes", lambda pid: next(took))
    room = Room(1)
    room.started("evaluates")
    for _ in range(2):  # it grows
        assert not room.settle_without_turns({"evaluates": 1})
        assert room.report({"evaluates": 1}) is None
    assert room.settle_without_turns({"evaluates": 1})
    assert not room.settle_without_turns({"evaluates": 1}), "once"
    reported = room.report({"evaluates": 1})
    assert reported is not None
    assert reported.host[1] == 2.1 * GB


def test_a_job_without_turns_waits_for_its_time_and_one_that_takes_them_for_the_third(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room, me = Room(1), os.getpid()
    room.started("a")
    for _ in range(3):
        assert not room.settle_without_turns({"a": me}), "its time is not over"
    monkeypatch.setattr(room_module, "LOOK_SECONDS", 0.0)
    room.receive("a", holdings(1))
    for _ in range(3):
        assert not room.settle_without_turns({"a": me}), "it takes turns"
    assert room.report({"a": me}) is None
    not_by_memory = Room(1, by_memory=False)
    not_by_memory.started("a")
    for _ in range(3):
        assert not not_by_memory.settle_without_turns({"a": me}), "nothing waits for it"


def test_what_a_process_has_started_counts() -> None:
    for words, children in (([], 0), ([TAKES_MEMORY], 1)):
        command = [sys.executable, "-c", TAKES_MEMORY, *words]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert len(list(family(process.pid))) == 1 + children
            assert memory_bytes(process.pid) > 50_000_000 * (1 + children)
            process.kill()


@pytest.fixture
def group() -> Iterator[None]:
    """Make a process group of this process alone."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_models_and_the_optimizers_that_have_stepped_are_counted(group: None) -> None:
    holdings = Holdings()
    model = DistributedDataParallel(nn.Linear(10, 10, bias=False))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    held = holdings.report(1, [model]).holdings
    assert held["parameters_bytes"] == 400
    assert held["gradients_bytes"] >= 400
    assert held["optimizer_bytes"] == 2 * 400 + 4
