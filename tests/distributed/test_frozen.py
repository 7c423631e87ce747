"""Jobs on equal frozen weights hold them once, and each ends as it does alone, whatever another does to them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from motet.testing import Gang

IDENTITY = "tests.distributed.identity:must_equal_alone"
KINDS = (
    "adapter", "unfreezing", "merging", "writing", "loading", "resizing", "copying", "sharing_memory", "loader",
    "teacher", "exporting", "referring", "receiving",
)  # fmt: skip
JOBS = {kind: f"jobs_frozen:{kind}" for kind in KINDS}


@pytest.mark.parametrize("num_workers", [1, 2])
def test_all_end_as_they_do_alone(gangs: Callable[[int], Gang], num_workers: int) -> None:
    for number, worker in enumerate(gangs(num_workers).run(IDENTITY, JOBS)):
        notices = [notice for notice in worker["notices"] if "frozen" in notice]
        saved, *busy = notices
        assert {notice.split("'")[1] for notice in busy if " something uses them " in notice} == {
            "exporting",
            *(["receiving"] if num_workers > 1 and number == 0 else []),
        }
        num_jobs, _, text = saved.partition(" ")
        assert 2 <= int(num_jobs) <= len(JOBS), notices  # those that have ended by then share no more
        assert text.startswith("jobs share "), notices
        assert saved.endswith(" MB saved"), notices


def test_a_job_that_begins_late_ends_as_it_does_alone(gangs: Callable[[int], Gang]) -> None:
    """When it looks for its weights it finds what another job has built meanwhile, and that other job writes to it."""
    names = {"brief": "jobs_frozen:brief", "copies": "jobs_frozen:referring_late", "late": JOBS["adapter"]}
    gangs(1).run(IDENTITY, names, at_once=2)


def test_off_is_off(gangs: Callable[[int], Gang]) -> None:
    names = {"adapter": JOBS["adapter"], "merging": JOBS["merging"]}
    for worker in gangs(1).run(IDENTITY, names, share_frozen="off"):
        assert not [notice for notice in worker["notices"] if "frozen" in notice]


def test_a_job_alone_is_left_alone(gangs: Callable[[int], Gang]) -> None:
    names = {"adapter": JOBS["adapter"], "other": "jobs_plain:companion"}
    for worker in gangs(1).run(IDENTITY, names):
        assert not [notice for notice in worker["notices"] if "frozen" in notice]


@pytest.mark.slow
def test_what_is_compiled_ends_as_it_does_alone(gangs: Callable[[int], Gang]) -> None:
    names = {"compiled": "jobs_frozen:compiled", "again": "jobs_frozen:compiled", "merging": JOBS["merging"]}
    for worker in gangs(2).run(IDENTITY, names):
        assert [notice for notice in worker["notices"] if notice.startswith("3 jobs share")]
