from __future__ import annotations

import random

import pytest
from tests.unit.observe.synthetic import THREE, streams

from motet.events import JobStarted, RunStarted, SyncEnded, TurnEnded
from motet.observe.account import Account, Covered, Intervals, JobSums, estimate
from motet.observe.digest import split_wall


def length_of_union(spans: list[tuple[float, float]]) -> float:
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


@pytest.mark.parametrize("seed", range(20))
def test_covered_yields_each_moment_once(seed: int) -> None:
    rng = random.Random(seed)
    spans = [(begin := rng.randint(i, i + 9), begin + rng.randint(0, 8)) for i in range(0, 200, 2)]
    covered = Covered()
    pieces = [piece for span in spans for piece in covered.add(*span)]
    assert sum(end - begin for begin, end in pieces) == length_of_union([(float(b), float(e)) for b, e in spans])
    assert all(begin < end for begin, end in pieces)
    assert length_of_union(pieces) == sum(end - begin for begin, end in pieces)


def test_intervals_keep_what_they_counted_while_they_double() -> None:
    intervals = Intervals()
    spans = [(i * 0.9, i * 0.9 + 0.7) for i in range(500)]
    for begin, end in spans:
        intervals.add(intervals.compute, begin, end)
    assert sum(intervals.compute) == pytest.approx(500 * 0.7)
    assert max(intervals.compute) <= intervals.length_seconds + 1e-9
    begin, end = 10 * intervals.length_seconds, 11 * intervals.length_seconds
    there = sum(max(0.0, min(e, end) - max(b, begin)) for b, e in spans)
    assert intervals.compute[10] == pytest.approx(there)


def test_sums_of_one_turn() -> None:
    account = Account()
    account.observe(RunStarted(100.0, 0.0, 0, 2, ("a",), ("a",)))
    account.observe(JobStarted(101.0, "a", None))
    account.observe(TurnEnded(105.0, "a", 1, 101.0, True))
    account.observe(JobStarted(105.0, "a", 10))  # its length became known
    account.observe(SyncEnded(109.0, "a", 1, 103.0, 108.0, 106.0, 3.0, 40, 2))
    sums = account.jobs["a"]
    assert sums == JobSums(1, 4.0, 5.0, 3.0, 2.0, 2.0, 3.0, 1, 40, 1.0, 9.0)
    assert (account.compute_seconds, account.waiting_seconds, account.network_seconds) == (4.0, 3.0, 5.0)
    assert account.seconds == 9.0


def test_what_ddp_alone_would_hide_counts_from_when_gradients_were_ready() -> None:
    account = Account()
    account.observe(RunStarted(100.0, 0.0, 0, 2, ("a",), ("a",)))
    account.observe(TurnEnded(105.0, "a", 1, 101.0, True))
    account.observe(SyncEnded(109.0, "a", 1, 106.0, 108.0, 106.0, 2.0, 40, 2, ready=104.0))  # it queued for 2 s
    sums = account.jobs["a"]
    assert (sums.sync_seconds, sums.overlap_seconds, sums.alone_overlap_seconds) == (2.0, 0.0, 1.0)


def test_network_seconds_count_overlapping_syncs_once() -> None:
    events = streams(THREE)[0]
    account = Account()
    for event in events:
        account.observe(event)
    syncs = [(event.launched, event.completed) for event in events if isinstance(event, SyncEnded)]
    assert account.network_seconds == pytest.approx(length_of_union(syncs))
    assert account.network_seconds < 0.8 * sum(end - begin for begin, end in syncs)


def test_the_wall_is_split_without_rest() -> None:
    shares = split_wall(10.0, compute=6.0, waiting=2.0, network=5.0)
    assert shares == {"compute": 3.0, "hidden": 3.0, "exposed": 2.0, "idle": 2.0}


def test_estimate_shares_the_network_by_bytes_and_grants_what_ddp_hides() -> None:
    jobs = {
        "big": JobSums(compute_seconds=4.0, sync_seconds=9.0, alone_overlap_seconds=1.0, num_bytes=900),
        "small": JobSums(compute_seconds=6.0, sync_seconds=9.0, alone_overlap_seconds=0.5, num_bytes=100),
    }
    guess = estimate(jobs, 10.0)
    assert guess.alone_seconds == pytest.approx({"big": 12.0, "small": 6.5})
    assert guess.one_after_another_seconds == pytest.approx(18.5)
    assert guess.bound_seconds == 12.0
    assert guess.longest_job == "big"
    assert estimate({}, 0.0).bound_seconds == 0.0
