"""Jobs that come and go leave nothing behind: what a worker holds is the same after each of them."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from motet.testing import Gang

# Of medians over tens of jobs: 0.02 MB kept of each job would be 3 MB from the middle of one half of 300 to that of the
# other, and the allocator's own drift is about 1 MB.
MOST_MORE = {"MB": 3.0, "open files": 0, "threads": 0, "processes": 0, "groups": 0}


@pytest.mark.parametrize(
    ("house", "num_jobs"),
    [
        ("together", 24),
        pytest.param("together", 300, marks=pytest.mark.slow),
        pytest.param("process", 300, marks=pytest.mark.slow),
    ],
)
def test_short_jobs_one_after_another_leave_nothing_behind(tmp_path: Path, house: str, num_jobs: int) -> None:
    with Gang(2, timeout_seconds=900, joined=house == "together") as gang:
        workers = gang.run("tests.distributed.jobs_many:one_after_another", str(tmp_path), num_jobs, house)
    for worker, (ended, seen) in enumerate(workers):
        assert ended == {"finished": num_jobs}
        settled = seen[num_jobs // 6 :]  # what is imported once, and caches that fill
        half = len(settled) // 2
        for what, most in MOST_MORE.items():
            early, late = (statistics.median(row[what] for row in rows) for rows in (settled[:half], settled[half:]))
            print(f"{house}, worker {worker}: {what} {early:.1f}, then {late:.1f}")
            assert late - early <= most, f"worker {worker} holds more {what}: {early:.1f}, then {late:.1f}"
