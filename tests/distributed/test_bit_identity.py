"""Every loop ends bit for bit as it does alone under plain DDP, while another job takes turns with it.

On two workers everything is recorded meanwhile, as ``motet run`` does it: live rows, logged values, the trace.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.distributed.tables import INSIDE_AUTOCAST, LOOPS

from motet.testing import Gang

IDENTITY = "tests.distributed.identity:must_equal_alone"


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("loop", LOOPS)
def test_same_weights_as_alone(gangs: Callable[[int], Gang], loop: str, num_workers: int) -> None:
    expected = LOOPS[loop]
    references = {"loop": expected.alone} if expected.alone else {}
    names = {"loop": loop, "beside": "jobs_plain:companion"}
    recorded = num_workers == 2
    reports = gangs(num_workers).run(IDENTITY, names, references=references, recorded=recorded, **expected.options)
    for worker in reports:
        assert worker["turns"]["loop"] == expected.turns_of(num_workers)
        assert worker["taken"] == reports[0]["taken"]
        if expected.turns_of(num_workers) > 1 and expected.notice != INSIDE_AUTOCAST:
            assert worker["taken"][:4] == ["loop", "beside", "loop", "beside"]
        notices = [notice for notice in worker["notices"] if "'loop' starts a thread" not in notice]
        notices = [notice for notice in notices if "'loop'" in notice]
        assert len(notices) == (expected.notice is not None), notices
        assert expected.notice is None or expected.notice in notices[0]
