"""What all tests share: gangs of workers that stay alive from one test to the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from motet.testing import Gang


@pytest.fixture(scope="session")
def gangs() -> Iterator[Callable[[int], Gang]]:
    """Return the gang of so many workers: started when first asked for, and kept."""
    started: dict[int, Gang] = {}

    def gang_of(num_workers: int) -> Gang:
        return started.setdefault(num_workers, Gang(num_workers, timeout_seconds=90))

    yield gang_of
    for gang in started.values():
        gang.close()


@pytest.fixture
def new_gang() -> Iterator[Callable[[int], Gang]]:
    """Return a gang of so many workers for this test alone, which may harm it."""
    made: list[Gang] = []

    def make(num_workers: int) -> Gang:
        made.append(Gang(num_workers, timeout_seconds=60))
        return made[-1]

    yield make
    for gang in made:
        gang.close()
