"""Workers of several machines begin a run together: a refusal reaches all, also those that come late."""

from __future__ import annotations

from motet.testing import Gang


def test_a_run_that_worker_0_refuses_is_refused_everywhere() -> None:
    """Its machine keeps the store: ended before the others have come, it would leave them without an answer."""
    with Gang(2, joined=False) as gang:
        first, second = gang.run("tests.distributed.jobs_beginning:refused_before_the_others_are_here")
    assert first == ["asked with all here", "the run is still going on"]
    assert second == ["the run is still going on"]
