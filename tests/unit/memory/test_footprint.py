"""What jobs hold, counted and compared with what is free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from motet.memory.footprint import (
    Footprint,
    HostMemory,
    MemoryMeter,
    MemoryReport,
    fits,
    is_measured,
    measure,
    size_text,
)
from motet.results import JobResult, Results


def model_with_state() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(10, 20, bias=False), nn.BatchNorm1d(20))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 10)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_parameters_gradients_and_optimizer_state_are_counted_exactly() -> None:
    model, optimizer = model_with_state()
    found = measure([model], [optimizer])
    num_trained = 10 * 20 + 20 + 20
    assert found.parameters_bytes == 4 * (num_trained + 20 + 20) + 8  # with mean, variance and the count of batches
    assert found.gradients_bytes == 4 * num_trained
    assert found.optimizer_bytes == 4 * 2 * num_trained + 4 * 3  # two moments, and a step for each parameter
    assert found.activations_bytes is None


def test_what_is_shared_is_counted_once() -> None:
    layer = nn.Linear(8, 8, bias=False)
    tied = nn.Sequential(layer, nn.Linear(8, 8, bias=False))
    tied[1].weight = layer.weight
    assert measure([tied], []).parameters_bytes == 4 * 64
    assert measure([tied, tied], []).parameters_bytes == 4 * 64


class Counted:
    """A memory whose amounts the test sets."""

    def __init__(self) -> None:
        self.allocated, self.peak, self.begun = 0, 0, 0

    def allocated_bytes(self) -> int:
        return self.allocated

    def begin_peak(self) -> None:
        self.begun += 1

    def peak_bytes(self) -> int | None:
        return self.peak

    def available_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0


def test_activations_are_the_peak_beyond_what_was_there() -> None:
    model, optimizer = model_with_state()
    memory = Counted()
    meter = MemoryMeter(memory)
    memory.allocated = 1000
    meter.admitted("a")
    meter.turn_begins("a", 1)
    memory.peak = 90_000  # the first turn builds the model: that is no activation
    assert meter.turn_ended("a", 1, [model], [optimizer]).activations_bytes is None
    meter.turn_begins("a", 2)
    assert memory.begun == 1
    for turn, peak in ((3, 7000), (6, 5000)):
        memory.allocated = 3000
        meter.turn_begins("a", turn)
        memory.peak = peak
        found = meter.turn_ended("a", turn, [model], [optimizer])
    assert found.activations_bytes == 4000
    assert meter.of("a") == found
    assert meter.need_bytes() == found.total_bytes
    assert meter.of("b") is None


def test_without_a_peak_the_need_is_what_the_process_grew_by() -> None:
    model, optimizer = model_with_state()
    memory = Counted()
    memory.peak_bytes = lambda: None  # type: ignore[method-assign]
    meter = MemoryMeter(memory)
    memory.allocated = 1000
    meter.admitted("a")
    memory.allocated = 1_001_000
    meter.turn_begins("a", 3)
    assert meter.turn_ended("a", 3, [model], [optimizer]).activations_bytes is None
    assert meter.need_bytes() == 1_000_000


def test_an_accelerator_whose_allocator_does_not_count_costs_only_the_activations() -> None:
    class Uncounted(Counted):
        def begin_peak(self) -> None:
            raise RuntimeError("Allocator for this device is not a DeviceAllocator")

        def peak_bytes(self) -> int | None:
            raise RuntimeError("Allocator for this device is not a DeviceAllocator")

    model, optimizer = model_with_state()
    meter = MemoryMeter(Uncounted())
    meter.admitted("a")
    for turn in (1, 3):
        meter.turn_begins("a", turn)
        found = meter.turn_ended("a", turn, [model], [optimizer], 123)
    assert found == replace(measure([model], [optimizer]), offload_bytes=123)


def test_ever_fewer_turns_are_measured() -> None:
    assert [turn for turn in range(100) if is_measured(turn)] == [1, 3, 6, 12, 24, 48, 96]


@pytest.mark.parametrize(
    ("available", "needs", "expected"),
    [
        ([60.0, 60.0], [49.0, 50.0], True),
        ([60.0, 60.0], [51.0, 1.0], False),  # 100 in all, of which 10 stay free
        ([60.0, 59.0], [50.0, 50.0], False),  # it has to fit on every worker
    ],
)
def test_a_job_fits_with_a_margin_on_every_worker(available: list[float], needs: list[float], expected: bool) -> None:
    reports = [MemoryReport(*sizes, 100.0) for sizes in zip(available, needs, strict=True)]
    sent = [MemoryReport.unpack(report.pack()) for report in reports]
    assert fits(sent) is expected


def test_main_memory_is_shared_and_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       8000 kB\nMemFree: 1 kB\nMemAvailable:   4000 kB\n")
    memory = HostMemory(2, proc=tmp_path, cgroup=tmp_path)
    assert memory.available_bytes() == 2000 * 1024
    assert memory.total_bytes() == 4000 * 1024
    (tmp_path / "memory.max").write_text("1024000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert memory.available_bytes() == 12_000
    assert memory.total_bytes() == 512_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_bytes() == 2000 * 1024


def test_this_machines_memory_is_read() -> None:
    memory = HostMemory()
    assert 0 < memory.available_bytes() <= memory.total_bytes()
    assert memory.allocated_bytes() > 1_000_000


def test_results_keep_what_was_measured_and_older_results_can_be_read() -> None:
    job = JobResult("finished", 3, 1.0, 0.0, 0.0, memory=Footprint(1, 2, 3, None).to_json())
    data = Results({"a": job}, num_workers=1, wall_seconds=1.0).to_json()
    assert Results.from_json(data)["a"].memory == {
        "parameters_bytes": 1,
        "gradients_bytes": 2,
        "optimizer_bytes": 3,
        "activations_bytes": None,
        "device": "cpu",
        "offload_bytes": 0,
        "process_bytes": None,
        "shared_bytes": 0,
    }
    del data["jobs"]["a"]["memory"]
    assert Results.from_json(data)["a"].memory is None


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(17, "17 B"), (1_530, "2 kB"), (15_300_000, "15.3 MB"), (153_000_000, "153 MB")]
)
def test_sizes_are_said_as_people_do(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text
