"""Which device and backend a worker uses, and on how many communicators jobs then send."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from motet.testing import Gang
from motet.workers.devices import (
    LANES_VARIABLE,
    LAUNCH_ORDER_VARIABLE,
    choose,
    has_device_backend,
    one_communicator,
    order_launches,
)


@pytest.mark.parametrize(
    ("accelerator", "num_devices", "local_rank", "num_local", "backend", "expected"),
    [
        (None, 0, 1, 2, None, ("gloo", None)),
        ("cuda", 8, 3, 8, "nccl", ("cpu:gloo,cuda:nccl", 3)),
        ("cuda", 1, 0, 1, "nccl", ("cpu:gloo,cuda:nccl", 0)),
        ("cuda", 1, 1, 2, "nccl", ("gloo", 0)),  # two workers share a device, which NCCL refuses
        ("xpu", 2, 1, 2, "xccl", ("cpu:gloo,xpu:xccl", 1)),
        ("mps", 1, 0, 1, None, ("gloo", 0)),
    ],
)
def test_backend_and_device_as_torchruns_users_expect(
    accelerator: str | None,
    num_devices: int,
    local_rank: int,
    num_local: int,
    backend: str | None,
    expected: tuple[str, int | None],
) -> None:
    choice = choose(accelerator, num_devices, local_rank, num_local, backend)
    assert (choice.backend, choice.device) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("cpu:gloo,cuda:nccl", True),
        ("cuda:nccl", True),
        ("cpu:gloo,cuda:gloo", False),
        ("cpu:gloo,cuda:gloo,xpu:xccl", True),
    ],
)
def test_a_backend_of_the_devices_own_is_found(config: str, expected: bool) -> None:
    assert has_device_backend(config) is expected


@pytest.mark.parametrize(
    ("config", "lanes", "expected"),
    [
        ("cpu:gloo,cuda:nccl", None, True),
        ("cpu:gloo,cuda:nccl", "job", False),  # at the user's own risk
        ("cpu:gloo,cuda:nccl", "anything else", True),
        ("cpu:gloo,cuda:gloo", None, False),  # workers that share a device
        ("cpu:gloo,cuda:gloo", "job", False),
    ],
)
def test_one_communicator_is_the_default_on_a_device(
    monkeypatch: pytest.MonkeyPatch, config: str, lanes: str | None, expected: bool
) -> None:
    monkeypatch.delenv(LANES_VARIABLE, raising=False)
    if lanes is not None:
        monkeypatch.setenv(LANES_VARIABLE, lanes)
    assert one_communicator(config) is expected


@pytest.mark.parametrize(
    ("config", "lanes", "given", "expected"),
    [
        ("cpu:gloo,cuda:nccl", "job", None, "1"),
        ("cpu:gloo,cuda:nccl", "job", "0", "0"),  # the environment says otherwise
        ("cpu:gloo,cuda:nccl", None, None, None),
        ("gloo", "job", None, None),
    ],
)
def test_nccl_launches_communicators_of_jobs_in_the_order_of_issue(
    monkeypatch: pytest.MonkeyPatch, config: str, lanes: str | None, given: str | None, expected: str | None
) -> None:
    for name, value in ((LANES_VARIABLE, lanes), (LAUNCH_ORDER_VARIABLE, given)):
        monkeypatch.setenv(name, "")  # put back at the end, whatever becomes of it
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    order_launches(config)
    assert os.environ.get(LAUNCH_ORDER_VARIABLE) == expected


def test_on_one_group_for_all_jobs_the_order_of_issue_is_the_same_everywhere(gangs: Callable[[int], Gang]) -> None:
    names = {
        "buckets": "jobs_plain:several_buckets",
        "views": "jobs_gradients:bucket_view_mixed",
        "beside": "jobs_plain:companion",
        "buffers_too": "jobs_buffers:every_moment",
        "talks": "jobs_collectives:mean_loss",
    }
    reports = gangs(2).run("tests.distributed.jobs_admitted:everything_on_one_group", names)
    assert [worker["differences"] for worker in reports] == [[], []]
    assert reports[0]["issued"] == reports[1]["issued"]
    assert len({line.split()[0] for line in reports[0]["issued"][:12]}) > 1  # the jobs' buckets are mixed
    assert "beside buffers" in reports[0]["issued"]
