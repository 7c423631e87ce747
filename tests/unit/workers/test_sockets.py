"""What many workers cost: sockets, and questions to the store while nothing moves."""

from __future__ import annotations

import resource

import pytest

from motet.errors import UsageError
from motet.workers import sockets
from motet.workers.sockets import make_room, seconds_between_looks, sockets_needed


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the limits of open files, the last of which counts."""
    found = [(1024, 4096)]
    monkeypatch.setattr(sockets.resource, "getrlimit", lambda what: found[-1])
    monkeypatch.setattr(sockets.resource, "setrlimit", lambda what, both: found.append(both))
    return found


def test_the_limit_is_raised_where_sockets_would_not_fit(limits: list[tuple[int, int]]) -> None:
    make_room(8, 16)
    assert limits == [(1024, 4096)], "165 fit"
    make_room(8, 256)
    assert sockets_needed(8, 256) == 2805
    assert limits[1:] == [(2805 + sockets.SPARE, 4096)]


def test_what_does_not_fit_is_refused_with_what_would(limits: list[tuple[int, int]]) -> None:
    with pytest.raises(UsageError, match=r"20 jobs at once on 256 workers .* at most 4096 .*--at-once 12"):
        make_room(20, 256)
    make_room(12, 256)
    limits.append((256, 256))
    with pytest.raises(UsageError, match="at most 256 are allowed"):
        make_room(1, 256)
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    make_room(1000, 1000)


@pytest.mark.parametrize("num_workers", [2, 16, 64, 256, 1024])
def test_a_stall_does_not_ask_the_store_a_square_of_the_workers(num_workers: int) -> None:
    each = num_workers / seconds_between_looks(num_workers)
    assert each <= 16
    assert seconds_between_looks(2) == 1.0
