"""Motet's own threads are no job's, though one starts in a job's turn: nobody is told of it, and no file is theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from motet.testing import Gang


def test_the_thread_that_writes_checkpoints(gangs: Callable[[int], Gang], tmp_path: Path) -> None:
    for report in gangs(2).run("tests.distributed.jobs_threads:who_writes", str(tmp_path)):
        assert {job: ended[:2] for job, ended in report["jobs"].items()} == dict.fromkeys(
            ("first", "second"), ("finished", 4)
        )
        assert report["notices"] == ()
        assert report["threads"] == {"motet-checkpoints_0": None}
