"""Many jobs, jobs of different lengths, some waiting for others, orders of the user's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from motet.testing import Gang

IDENTITY = "tests.distributed.identity:must_equal_alone"
EIGHT = {
    "plain": "jobs_plain:plain",
    "buckets": "jobs_plain:several_buckets",
    "accumulation": "jobs_plain:accumulation",
    "batchnorm": "jobs_buffers:every_moment",
    "gan": "jobs_buffers:gan",
    "surgery": "jobs_gradients:surgery",
    "generators": "jobs_plain:generators",
    "loss": "jobs_collectives:mean_loss",
}
FIVE = {
    "long": "jobs_plain:longer",
    "short": "jobs_plain:shorter",
    "doubles": "jobs_plain:float64",
    "branches": "jobs_models:unused_on_some",
    "batchnorm": "jobs_buffers:evaluation_through_ddp",
}


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_eight_jobs_at_once(gangs: Callable[[int], Gang], num_workers: int) -> None:
    for worker in gangs(num_workers).run(IDENTITY, EIGHT, order="round-robin"):
        assert worker["taken"][: len(EIGHT)] == list(EIGHT)
        assert worker["turns"]["gan"] == worker["turns"]["surgery"] == 2 * worker["turns"]["plain"]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_two_at_once_of_five(gangs: Callable[[int], Gang], num_workers: int) -> None:
    reports = gangs(num_workers).run(IDENTITY, FIVE, at_once=2)
    for worker in reports:
        taken = worker["taken"]
        assert taken == reports[0]["taken"]
        spans = {job: (taken.index(job), len(taken) - taken[::-1].index(job)) for job in FIVE}
        for slot in range(len(taken)):
            assert sum(begin <= slot < end for begin, end in spans.values()) <= 2


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_jobs_of_different_lengths(gangs: Callable[[int], Gang], num_workers: int) -> None:
    names = {"long": "jobs_plain:longer", "short": "jobs_plain:shorter", "middle": "jobs_plain:plain"}
    for worker in gangs(num_workers).run(IDENTITY, names, order="round-robin"):
        assert worker["turns"] == {"long": 18, "short": 1, "middle": 6}
        assert set(worker["taken"][-10:]) == {"long"}


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_an_order_of_the_users_own(gangs: Callable[[int], Gang], num_workers: int) -> None:
    names = {"a": "jobs_plain:longer", "b": "jobs_buffers:gan", "c": "jobs_models:sparse_adam"}
    for worker in gangs(num_workers).run(IDENTITY, names, order="a,b,a,c"):
        assert worker["taken"][:12] == ["a", "b", "a", "c"] * 3


@pytest.mark.parametrize("num_workers", [2])
def test_an_order_in_which_a_job_follows_itself(gangs: Callable[[int], Gang], num_workers: int) -> None:
    names = {"a": "jobs_plain:several_buckets", "b": "jobs_buffers:every_moment"}
    for worker in gangs(num_workers).run(IDENTITY, names, order=["a", "a", "b", "b", "b"]):
        assert worker["taken"][:5] == ["a", "a", "b", "b", "b"]


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_one_job_alone(gangs: Callable[[int], Gang], num_workers: int) -> None:
    for worker in gangs(num_workers).run(IDENTITY, {"only": "jobs_buffers:every_moment"}):
        assert Counter(worker["taken"]) == {"only": 7}  # the last one ends the job


def test_the_same_loop_several_times(gangs: Callable[[int], Gang]) -> None:
    gangs(2).run(IDENTITY, dict.fromkeys(("one", "two", "three"), "jobs_buffers:evaluation_through_ddp"))
