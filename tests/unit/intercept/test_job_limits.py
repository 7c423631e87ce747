"""What a job asks the system to allow it reaches no other job, in whatever way it asks."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from motet.coroutines import Turns
from motet.intercept.job_limits import JobLimits

CORE = resource.RLIMIT_CORE


@pytest.mark.parametrize("kind", [tuple, list])
def test_a_lowered_limit_stays_as_it_is_and_the_job_sees_its_own(kind: type[Sequence[int]]) -> None:
    now, notices = resource.getrlimit(resource.RLIMIT_NOFILE), list[str]()
    job: SimpleNamespace | None = SimpleNamespace(name="a")
    turns = cast(Turns, SimpleNamespace(running_here=lambda: job))
    limits = JobLimits(turns, lambda name, text: notices.append(f"{name} {text}"))
    lower = (now[0] - 1, now[1])
    limits.set(resource.setrlimit, resource.RLIMIT_NOFILE, kind(lower))
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == now
    assert limits.get(resource.getrlimit, resource.RLIMIT_NOFILE) == lower
    assert [notice.partition(":")[0] for notice in notices] == [f"a lowers RLIMIT_NOFILE to {now[0] - 1}"]
    job = SimpleNamespace(name="b")
    assert limits.get(resource.getrlimit, resource.RLIMIT_NOFILE) == now


@pytest.mark.parametrize("wrong", [(1,), (2, 1), ("a", 1), 7])
def test_what_is_no_limit_is_the_systems_to_refuse(wrong: object) -> None:
    turns = cast(Turns, SimpleNamespace(running_here=lambda: SimpleNamespace(name="a")))
    limits = JobLimits(turns, lambda name, text: None)
    with pytest.raises((ValueError, TypeError)):
        limits.set(resource.setrlimit, CORE, wrong)  # type: ignore[arg-type]
