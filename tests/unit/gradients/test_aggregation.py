"""Who aggregates what is chosen alike on every worker, balanced by bytes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motet.errors import UsageError
from motet.gradients.aggregation.choose import Aggregation

buckets = st.lists(st.integers(1, 10**6), min_size=1, max_size=50)


@given(st.integers(2, 8), buckets)
def test_aggregators_are_balanced_by_bytes_and_the_same_on_every_worker(num_workers: int, sizes: list[int]) -> None:
    chosen = [[Aggregation(worker, num_workers).choose(1)] for worker in range(num_workers)]
    assert len({tuple(one) for one in chosen}) == 1
    aggregation, loads = Aggregation(0, num_workers), Counter(dict.fromkeys(range(num_workers), 0))
    for size in sizes:
        loads[aggregation.choose(size)] += size
    assert max(loads.values()) - min(loads.values()) <= max(sizes)


def test_only_the_workers_that_were_named_aggregate() -> None:
    aggregation = Aggregation(1, 4, [2, 0, 2])
    assert [aggregation.choose(10) for _ in range(4)] == [0, 2, 0, 2]


@pytest.mark.parametrize("aggregators", [[], [-1], [0, 4]])
def test_aggregators_must_be_workers(aggregators: list[int]) -> None:
    with pytest.raises(UsageError, match="workers of this run, 0 to 3"):
        Aggregation(0, 4, aggregators)
