"""What many workers cost in sockets."""

from __future__ import annotations

import os
import resource

import pytest

from motet.errors import UsageError
from motet.workers import sockets
from motet.workers.sockets import (
    VARIABLE,
    connecting,
    connecting_for_job,
    consult_every_seconds,
    jobs_connect_lazily,
    longest_pause_seconds,
    make_room,
    room_for_store,
    seconds_between_looks,
    sockets_needed,
)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return the limits of open files, the last of which counts."""
    monkeypatch.delenv(VARIABLE, raising=False)
    found = [(1024, 4096)]
    monkeypatch.setattr(sockets.resource, "getrlimit", lambda what: found[-1])
    monkeypatch.setattr(sockets.resource, "setrlimit", lambda what, both: found.append(both))
    return found


def test_what_fits_is_left_alone(limits: list[tuple[int, int]]) -> None:
    assert not jobs_connect_lazily(8, 16)
    make_room(8, 16)
    assert limits == [(1024, 4096)]


def test_jobs_connect_lazily_where_their_meshes_would_not_fit(limits: list[tuple[int, int]]) -> None:
    assert sockets_needed(8, 256) == 8 * 255 + 9 * 2 + 8 + 8 + 3
    assert sockets_needed(8, 256, lazily=True) == 8 * 10 + 9 * 2 + 8 + 8 + 3 < 128
    assert jobs_connect_lazily(8, 256)
    make_room(8, 256, lazily=True)
    assert limits == [(1024, 4096)], "and then nothing has to be raised"


@pytest.mark.parametrize(("given", "lazily"), [("1", True), ("true", True), ("0", False), ("no", False)])
def test_torchs_own_variable_decides(
    limits: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, given: str, lazily: bool
) -> None:
    monkeypatch.setenv(VARIABLE, given)
    assert jobs_connect_lazily(8, 256) == jobs_connect_lazily(1, 2) == lazily


def test_the_limit_is_raised_for_meshes_that_were_asked_for(limits: list[tuple[int, int]]) -> None:
    make_room(8, 256)
    assert limits[1:] == [(sockets_needed(8, 256) + sockets.SPARE, 4096)]


def test_what_does_not_fit_is_refused_with_what_would(limits: list[tuple[int, int]]) -> None:
    with pytest.raises(UsageError, match=r"20 jobs at once on 256 workers .* at most 4096 .*--at-once 14"):
        make_room(20, 256)
    make_room(14, 256)
    limits.append((256, 256))
    with pytest.raises(UsageError, match="at most 256 are allowed"):
        make_room(1, 256)
    limits.append((resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    make_room(1000, 1000)
    assert not jobs_connect_lazily(1000, 1000)


def test_whoever_keeps_the_store_has_room_for_its_clients(limits: list[tuple[int, int]]) -> None:
    with room_for_store(16):
        assert limits == [(1024, 4096)]
    with room_for_store(1000):
        assert limits[1:] == [(4096, 4096)], "as far as it may"
    assert limits[2:] == [(1024, 4096)], "put back"


def test_what_a_launcher_raises_for_its_store_decides_for_no_worker(limits: list[tuple[int, int]]) -> None:
    with room_for_store(256):
        assert limits[-1][0] > sockets_needed(8, 256) + sockets.SPARE
        assert jobs_connect_lazily(8, 256)
    assert sockets.LIMIT not in os.environ


def test_groups_connect_as_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with connecting(lazily=True):
        assert os.environ[VARIABLE] == "1"
        with connecting(lazily=False):
            assert os.environ[VARIABLE] == "0"
        assert os.environ[VARIABLE] == "1"
    assert VARIABLE not in os.environ


def test_a_jobs_own_word_decides_for_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with connecting_for_job(lazily=True):
        assert os.environ[VARIABLE] == "1"
    monkeypatch.setenv(VARIABLE, "0")
    with connecting_for_job(lazily=True):
        assert os.environ[VARIABLE] == "0"


@pytest.mark.parametrize("num_workers", [2, 64, 256, 1024])
def test_what_workers_ask_in_a_second_does_not_grow_with_them(num_workers: int) -> None:
    assert num_workers / longest_pause_seconds(num_workers) <= 4000
    assert num_workers / consult_every_seconds(num_workers) <= 128
    assert num_workers / seconds_between_looks(num_workers) <= 64
    assert (longest_pause_seconds(2), consult_every_seconds(2), seconds_between_looks(2)) == (0.004, 0.5, 1.0)
