"""State that is offloaded elsewhere between turns: storages by themselves, and whole runs against running alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch

from motet.memory.offload import SMALLEST_BYTES, HostTransfers, Offload, StreamTransfers
from motet.testing import Gang

NUMBERS = SMALLEST_BYTES // 4


def test_tensors_stay_the_same_objects_and_find_their_bytes_again() -> None:
    offload = Offload(HostTransfers())
    whole = torch.randn(4 * NUMBERS)
    parameter = torch.nn.Parameter(whole[NUMBERS:])  # a view, as of a flat buffer
    before, version = whole.clone(), whole._version
    assert offload.put_away("a", [parameter, whole]) == whole.untyped_storage().nbytes() + 16 * NUMBERS
    assert whole.untyped_storage().nbytes() == 0
    offload.begin_return("a")
    offload.begin_return("a")  # asked for twice
    offload.returned("a")
    assert torch.equal(whole, before)
    assert torch.equal(parameter, before[NUMBERS:])
    assert whole._version == version
    offload.returned("a")  # it is there


def test_a_job_may_come_back_without_notice() -> None:
    offload = Offload(HostTransfers())
    tensor = torch.arange(NUMBERS, dtype=torch.float32)
    offload.put_away("a", [tensor])
    offload.returned("a")
    assert tensor.tolist() == list(range(NUMBERS))


def test_small_and_foreign_storages_stay() -> None:
    offload = Offload(HostTransfers())
    small, sparse = torch.ones(3), torch.eye(100).to_sparse()
    elsewhere = torch.empty(10_000, device="meta")
    shared = torch.ones(NUMBERS).share_memory_()
    assert offload.put_away("a", [small, sparse, elsewhere, shared]) == 0
    assert small.sum() == 3
    assert shared.sum() == NUMBERS


def test_places_are_used_again() -> None:
    class Counted(HostTransfers):
        num_places = 0

        def place(self, num_bytes: int) -> torch.Tensor:
            self.num_places += 1
            return super().place(num_bytes)

    transfers = Counted()
    offload = Offload(transfers)
    one, other = torch.ones(NUMBERS), torch.full((NUMBERS,), 2.0)
    for _ in range(5):
        offload.put_away("a", [one])
        offload.returned("a")
        offload.put_away("b", [other])
        offload.returned("b")
    assert transfers.num_places == 1
    assert (one == 1).all()
    assert (other == 2).all()


class Recording(HostTransfers):
    """Notes in which order things are asked of the device."""

    def __init__(self) -> None:
        self.steps: list[object] = []

    def place(self, num_bytes: int) -> torch.Tensor:
        self.steps.append("place")
        return super().place(num_bytes)

    def mark(self) -> object:
        self.steps.append("mark")
        return "the mark"

    def wait(self, mark: object) -> None:
        self.steps.append(("wait", mark))

    def keep(self, tensor: torch.Tensor) -> None:
        self.steps.append("keep" if tensor.untyped_storage().nbytes() else "kept too late")


def test_memory_is_kept_before_it_is_freed_and_waited_for_before_it_is_used() -> None:
    transfers = Recording()
    offload = Offload(transfers)
    offload.put_away("a", [torch.ones(NUMBERS)])
    assert transfers.steps == ["place", "keep"]
    offload.begin_return("a")
    assert transfers.steps[2:] == ["mark"]
    offload.returned("a")
    assert transfers.steps[3:] == [("wait", "the mark")]


class FakeStream:
    """Notes what is asked of it, on a list that all share; knows which stream is the current one."""

    asked: ClassVar[list[tuple[str, ...]]] = []
    current: ClassVar[list[str]] = ["compute"]

    def __init__(self, device: object, name: str = "side") -> None:
        self.name = name

    def wait_stream(self, other: FakeStream) -> None:
        self.asked.append((self.name, "waits for stream", other.name))

    def wait_event(self, event: FakeEvent) -> None:
        self.asked.append((self.name, "waits for event in", event.stream))

    def __enter__(self) -> None:
        self.current.append(self.name)

    def __exit__(self, *_: object) -> None:
        self.current.pop()


class FakeEvent:
    def __init__(self, device: object) -> None:
        self.stream = ""

    def record(self, stream: FakeStream) -> None:
        self.stream = stream.name
        FakeStream.asked.append((stream.name, "records an event"))


def test_streams_are_ordered_so_that_nothing_is_read_or_used_again_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfers of a device, with stand-ins for its streams."""
    asked = FakeStream.asked
    asked.clear()
    monkeypatch.setattr(torch, "Stream", FakeStream)
    monkeypatch.setattr(torch, "Event", FakeEvent)
    monkeypatch.setattr(torch.accelerator, "current_stream", lambda device: FakeStream(device, FakeStream.current[-1]))

    class OnTheHost(StreamTransfers):  # what needs a device by itself
        def place(self, num_bytes: int) -> torch.Tensor:
            return torch.empty(num_bytes, dtype=torch.uint8)

        def keep(self, tensor: torch.Tensor) -> None:
            asked.append((self._side.name, "keeps"))

        def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
            asked.append((FakeStream.current[-1], "copies"))
            super().copy(target, source)

    offload = Offload(OnTheHost(torch.device("cpu")))
    tensor = torch.arange(NUMBERS, dtype=torch.float32)
    offload.put_away("a", [tensor])
    behind_compute = ("side", "waits for stream", "compute")
    assert asked == [behind_compute, ("side", "copies"), ("side", "keeps")]
    asked.clear()
    offload.begin_return("a")
    assert asked == [behind_compute, ("side", "copies"), ("side", "records an event")]
    asked.clear()
    offload.returned("a")
    assert asked == [("compute", "waits for event in", "side")]
    assert tensor.tolist() == list(range(NUMBERS))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_same_weights_with_idle_jobs_offloaded(gangs: Callable[[int], Gang], num_workers: int) -> None:
    for report in gangs(num_workers).run("tests.distributed.jobs_admitted:idle_jobs_offloaded"):
        assert report["errors"] == []
        assert report["differences"] == []
        assert len(report["moved"]) > 10
        assert all(report["moved"])
        assert report["places"] < 10 * len(report["moved"])


def test_buckets_in_the_gradients_place_stay_while_in_flight(gangs: Callable[[int], Gang]) -> None:
    for report in gangs(2).run("tests.distributed.jobs_admitted:large_jobs_offloaded"):
        assert report["differences"] == []
        # Parameters, gradients and two moments of each layer; buckets, in which gradients are in flight, are not among
        # them.
        assert report["moved"] == {f"large{depth}": 4 * depth * 4 * 256 * 256 for depth in (2, 3, 4)}


LOOPS = {
    "one": "jobs_plain:several_buckets",
    "two": "jobs_gradients:bucket_view_mixed",
    "three": "jobs_models:unused_on_some_kept",
    "four": "jobs_buffers:gan",
    "five": "jobs_plain:scaler",
}


def test_the_same_weights_of_many_kinds_of_loops(gangs: Callable[[int], Gang], monkeypatch: pytest.MonkeyPatch) -> None:
    for differences in gangs(2).run("tests.distributed.jobs_admitted:loops_offloaded", LOOPS):
        assert differences == []


def test_on_the_cpu_nothing_is_moved_and_the_user_is_notified(gangs: Callable[[int], Gang]) -> None:
    for report in gangs(1).run("tests.distributed.jobs_admitted:idle_on_the_cpu"):
        assert report["differences"] == []
        assert report["moves"] == 0
        assert [notice for notice in report["notices"] if "nothing is moved" in notice]


def test_what_is_the_hosts_stays_there_whatever_the_default_device(new_gang: Callable[[int], Gang]) -> None:
    for differences in new_gang(2).run("tests.distributed.jobs_admitted:default_device_elsewhere"):
        assert differences == []


def test_at_once_auto_admits_while_the_next_fits_on_every_worker(gangs: Callable[[int], Gang]) -> None:
    # Asked when a has settled (room), when b has (worker 1 has none), and whenever a job has ended.
    free = [[2.0, 2.0, 0.0, 0.0, 0.0], [2.0, 0.5, 0.0, 0.0, 0.0]]
    for report in gangs(2).run("tests.distributed.jobs_admitted:admitted_by_memory", free):
        assert report["statuses"] == ["finished"] * 4
        assert report["most"] == 2
        assert "2 of the jobs are running" in report["notices"][0]
        assert report["memory"]["parameters_bytes"] > 4 * 64 * 96
        assert report["memory"]["optimizer_bytes"] > 2 * 4 * 64 * 96
        assert set(report["measured"]) == set("abcd")
