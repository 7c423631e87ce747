"""After a run torch, and the process, are as they were; and models that were trained in it go on as any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from motet.testing import Gang

JOBS = "tests.distributed.jobs_undone"
KINDS = ["finished", "talks", "failed", "refused", "globals", "stopped", "compiled"]


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_process_is_as_it_was(new_gang: Callable[[int], Gang], kind: str, num_workers: int) -> None:
    for worker in new_gang(num_workers).run(f"{JOBS}:changed", kind):
        assert worker["patches"] == []
        assert worker["surroundings"] == []
        assert worker["counts"] == {"threads": 0, "files": 0}


def test_torch_is_as_it_was_after_an_error_between_workers(new_gang: Callable[[int], Gang]) -> None:
    for worker in new_gang(2).run(f"{JOBS}:changed", "diverged"):
        assert worker["patches"] == []


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["plain", "images", "view", "hook"])
def test_a_model_goes_on_as_plain_ddp_after_the_run(gangs: Callable[[int], Gang], kind: str, num_workers: int) -> None:
    assert gangs(num_workers).run(f"{JOBS}:goes_on_afterwards", kind) == [[]] * num_workers


@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("kind", ["plain", "images", "view", "hook"])
def test_a_model_that_was_built_before_the_run(gangs: Callable[[int], Gang], kind: str, num_workers: int) -> None:
    assert gangs(num_workers).run(f"{JOBS}:built_before", kind) == [[]] * num_workers


def test_a_model_can_be_copied_and_saved_after_the_run(gangs: Callable[[int], Gang]) -> None:
    assert gangs(2).run(f"{JOBS}:can_be_copied") == [[], []]
