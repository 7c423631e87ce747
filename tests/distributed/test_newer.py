"""What DDP has since torch 2.15: beyond the weights (`tables`), what is kept in memory, and what cannot work."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.distributed.tables import TORCH

from motet.testing import Gang

JOBS = "tests.distributed.jobs_newer"
pytestmark = pytest.mark.skipif(TORCH < (2, 15), reason="DDP's options are newer than this torch")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_buckets_that_ddp_lets_go_of_are_not_kept(gangs: Callable[[int], Gang], num_workers: int) -> None:
    for worker in gangs(num_workers).run(f"{JOBS}:kept_by_job"):
        assert worker["status"] == "finished"
        assert max(worker["kept"]) <= 1, "the companion's"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_finalizing_inside_backward_is_refused(gangs: Callable[[int], Gang], num_workers: int) -> None:
    for worker in gangs(num_workers).run(f"{JOBS}:refused_by_job"):
        assert worker["status"] == {"one": "failed", "two": "finished"}
        assert "finalize_backward() was called inside backward()" in worker["error"]
        assert "Call it after backward()" in worker["error"]


@pytest.mark.parametrize("options", [{}, {"sync": "aggregate"}], ids=["all-reduce", "aggregate"])
def test_finalized_by_hand_with_smaller_messages(gangs: Callable[[int], Gang], options: dict[str, str]) -> None:
    for sent in gangs(2).run("tests.distributed.jobs_compression:must_equal_the_hook", "by hand", **options):
        assert sent["small"] * 2 == sent["plain"]
