"""On a device: the same weights as alone, memory given back, records in device time.

One worker on the device's own library (NCCL); two workers that share the device, joined by gloo, whose tensors are on
the device all the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from tests.distributed.tables import LOOPS

from motet.testing import Gang

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator, and there is none here"),
]

WORKERS = "tests.gpu.jobs_device"
# NumPy's arrays and autocast's "cpu" belong to the host; loaders draw on the host's generator; what must be told to
# the user is tested on the CPU.
ON_THE_HOST = ("generators", "autocast", "scaler", "loader", "conversation", "saving")
SPARSE = ("sparse", "embedding")  # NCCL sums no sparse tensors, with or without Motet
OWN = ["mixed_float16", "mixed_bfloat16", "compiled", "convolutions", "wide"]
LISTED = [
    name for name, expected in LOOPS.items() if not any(word in name for word in ON_THE_HOST) and not expected.alone
]


@pytest.fixture(scope="module")
def device_gangs() -> Iterator[Callable[[int], Gang]]:
    started: dict[int, Gang] = {}

    def gang_of(num_workers: int) -> Gang:
        environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
        return started.setdefault(
            num_workers, Gang(num_workers, joined=False, timeout_seconds=240, environment=environment)
        )

    yield gang_of
    for gang in started.values():
        gang.close()


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("loop", LISTED + OWN)
def test_same_weights_as_alone(device_gangs: Callable[[int], Gang], loop: str, num_workers: int) -> None:
    if num_workers == 1 and any(word in loop for word in SPARSE):
        pytest.skip("NCCL sums no sparse tensors")
    names = {"loop": loop, "beside": "companion"}
    options = LOOPS[loop].options if loop in LOOPS else {}
    backend = None if num_workers == 1 else "gloo"
    for found in device_gangs(num_workers).run(f"{WORKERS}:same_as_alone", names, backend, **options):
        assert found == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_same_weights_with_idle_jobs_in_the_hosts_memory(device_gangs: Callable[[int], Gang], num_workers: int) -> None:
    names = {
        "a": "jobs_plain:several_buckets",
        "b": "convolutions",
        "c": "companion",
        "d": "mixed_float16",
        "e": "wide",
    }
    backend = None if num_workers == 1 else "gloo"
    for found in device_gangs(num_workers).run(f"{WORKERS}:same_as_alone", names, backend, offload="idle"):
        assert found == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only torch.cuda can be told to take less memory")
def test_jobs_whose_sum_exceeds_the_device_train_together(device_gangs: Callable[[int], Gang]) -> None:
    report = device_gangs(1).run(f"{WORKERS}:more_than_fits")[0]
    assert [status for status, _, _ in report["idle"]] == ["finished"] * 6, report["idle"]
    assert [result for _, result, _ in report["idle"]] == report["alone"]
    assert any(status == "failed" and "out of memory" in error for status, _, error in report["nothing"])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_job_that_has_ended_leaves_nothing_on_the_device(
    device_gangs: Callable[[int], Gang], num_workers: int
) -> None:
    backend = None if num_workers == 1 else "gloo"
    for report in device_gangs(num_workers).run(f"{WORKERS}:memory_returns", False, backend):
        held = report["jobs"]["first"][2]
        assert held["parameters_bytes"] == 4 * 4 * 2048 * 2048
        assert held["optimizer_bytes"] >= 2 * held["parameters_bytes"]
        assert held["activations_bytes"] > 0
        assert report["after"] == report["before"]
        assert report["ended"]["first"] - report["before"] < held["parameters_bytes"] // 10  # what the other one holds


@pytest.mark.parametrize("num_workers", [1, 2])
def test_out_of_memory_ends_one_job_and_gives_its_memory_back(
    device_gangs: Callable[[int], Gang], num_workers: int
) -> None:
    backend = None if num_workers == 1 else "gloo"
    for report in device_gangs(num_workers).run(f"{WORKERS}:memory_returns", True, backend):
        status, error, _ = report["jobs"]["first"]
        assert status == "failed"
        assert "out of memory" in error
        assert report["jobs"]["second"][0] == "finished"
        assert report["after"] == report["before"]


def test_records_hold_device_time(device_gangs: Callable[[int], Gang]) -> None:
    report = device_gangs(1).run(f"{WORKERS}:device_times")[0]
    spans = sorted(report["turns"])
    assert all(report["begin"] <= begin <= end <= report["end"] for begin, end in spans)
    assert all(later[0] >= earlier[1] - 1e-4 for earlier, later in itertools.pairwise(spans))
    assert all(launched <= completed for launched, completed, _ in report["syncs"])
    # Turns fill most of the time from the first to the last; had they been timed at the enqueue, they would not.
    assert sum(end - begin for begin, end in spans) > 0.5 * (spans[-1][1] - spans[0][0])
