"""Each job has a world of its own in ``torch.distributed``, its threads too; nothing of it is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from motet.testing import Gang

JOBS = "tests.distributed.jobs_worlds"


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_functions_find_the_programs_group_until_they_make_one(gangs: Callable[[int], Gang], num_workers: int) -> None:
    total = float(sum(range(num_workers)))
    found = [True, True, False, num_workers, False, [total, total], False, True]
    for worker in gangs(num_workers).run(f"{JOBS}:in_a_program_with_a_group"):
        assert worker == ({"one": found, "two": found}, True)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_where_the_program_made_none_functions_begin_without(num_workers: int) -> None:
    with Gang(num_workers, joined=False, timeout_seconds=60) as gang:
        total = float(sum(range(num_workers)))
        asked = [False, True, False, num_workers, False, [total, total], False, True]
        for worker in gang.run(f"{JOBS}:in_a_program_without_one"):
            assert worker == ({"one": asked, "two": [False, num_workers, True, False, "ValueError"]}, False)


@pytest.mark.parametrize("num_workers", [2, 3])
def test_a_thread_stays_in_its_jobs_world_while_another_has_its_turn(
    gangs: Callable[[int], Gang], num_workers: int
) -> None:
    total = float(num_workers**2)
    for worker in gangs(num_workers).run(f"{JOBS}:thread_beside_another_job"):
        assert worker["threaded"] == [True, [total, total], num_workers, True]
        assert worker["other"] == [True, True]


@pytest.mark.parametrize("num_workers", [2, 3])
def test_what_threads_of_two_jobs_send_stays_apart_in_whatever_order(
    gangs: Callable[[int], Gang], num_workers: int
) -> None:
    for worker in gangs(num_workers).run(f"{JOBS}:threads_in_another_order"):
        assert worker == {"one": [float(num_workers)] * 4, "two": [100.0 * num_workers] * 4}


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize(
    "name",
    ["jobs_buffers:every_moment", "jobs_collectives:conversation", "jobs_collectives:mesh", "jobs_plain:autocast"],
)
def test_same_weights_as_alone_in_worlds_of_their_own(
    gangs: Callable[[int], Gang], name: str, num_workers: int
) -> None:
    assert gangs(num_workers).run(f"{JOBS}:model_in_a_world_of_its_own", name) == [[]] * num_workers


def test_what_a_group_calls_back_makes_no_group_for_another_job() -> None:
    with Gang(2, joined=False, timeout_seconds=60) as gang:
        found = gang.run(f"{JOBS}:callbacks_beside_another_job")
    assert [worker["late"] for worker in found] == [False, False]
    assert found[0]["calls_back"] == found[1]["calls_back"]


def test_runs_one_after_another_make_their_own_groups() -> None:
    with Gang(2, joined=False, timeout_seconds=60) as gang:
        found = gang.run(f"{JOBS}:runs_one_after_another")
    assert found[0] == found[1]
    assert found[0][0] == found[0][1] == found[0][2]


def test_nothing_grows_over_a_hundred_jobs(new_gang: Callable[[int], Gang]) -> None:
    for counts, before, after in new_gang(2).run(f"{JOBS}:many", 100):
        assert len(counts) == 100
        assert max(counts[50:]) <= max(counts[:50]), "threads, files, groups"
        assert all(late <= early for late, early in zip(counts[90], counts[10], strict=True))
        assert after == before


def test_on_a_device_a_jobs_group_shares_the_runs_communicator() -> None:
    config = "cpu:gloo,cuda:library"
    with Gang(2, joined=False, timeout_seconds=60) as gang:
        for found, total in gang.run(f"{JOBS}:shares_a_device"):
            assert found["gloo"] == [False, False, True, "gloo", config, 2.0]
            assert found["all"] == [False, False, True, config, config, 2.0]
            assert total == 2.0
