"""What a replay says about idle state in the host's memory: extremes, by hand, and as a run really asks for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.errors import UsageError
from motet.schedule.costs import Cost
from motet.schedule.offload_model import CopyStream, OffloadModel, is_offloaded, parse_host_link
from motet.schedule.order import Order
from motet.schedule.replay import Assumptions, Replay, replay
from motet.testing import Gang

THREE = {name: Cost(1.0, 0.0) for name in "abc"}


def replayed(
    costs: dict[str, Cost], turns: dict[str, int], sizes: dict[str, float] | None, rate: float = 1.0, order: str = ""
) -> Replay:
    """Replay with state of ``sizes`` that is offloaded; with None, all of it stays on the device."""
    offload = None if sizes is None else OffloadModel(sizes, rate)
    # On one lane nothing overtakes, so that what is late makes nothing else early.
    assumptions = Assumptions(num_buckets=1, lanes="one", offload=offload)
    return replay(Order(tuple(order or costs)), costs, turns, num_workers=2, assumptions=assumptions)


@pytest.mark.parametrize(("text", "rate"), [("12GB/s", 12e9), ("800 mb/s", 8e8), ("1.5gb/s", 1.5e9), ("7B/s", 7.0)])
def test_links_to_the_host_are_read(text: str, rate: float) -> None:
    assert parse_host_link(text) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "fast", "12", "12gbit", "0GB/s", "-1GB/s", "1.2.3GB/s", "12GB"])
def test_a_link_to_the_host_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="12GB/s"):
        parse_host_link(text)


@pytest.mark.parametrize(("rate", "size"), [(0.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0), (1.0, -1.0)])
def test_a_link_needs_a_rate(rate: float, size: float) -> None:
    with pytest.raises(ValueError, match="rate above 0"):
        OffloadModel({"a": size}, rate)


def test_who_rests() -> None:
    assert is_offloaded("a", "b", 3)
    assert not is_offloaded("a", "a", 3), "its turn is next"
    assert not is_offloaded("a", "b", 2), "one computes, the other is on its way back"


def test_a_side_stream_copies_one_after_the_other() -> None:
    side = CopyStream(OffloadModel({"a": 2.0, "b": 4.0}, 1.0))
    side.put_away("a", 10.0)  # to 12
    side.put_away("b", 11.0)  # to 16
    side.begin_return("a", 11.5)  # to 18
    side.begin_return("a", 30.0)  # asked for already
    assert side.back_at("a", 12.0) == 18.0
    side.returned("a")
    assert side.back_at("a", 19.0) == 19.0
    assert side.back_at("b", 20.0) == 24.0, "nobody had asked for it"


seconds = st.floats(0.0, 10.0, allow_subnormal=False)
costs_of_jobs = st.dictionaries(st.sampled_from("abcd"), st.builds(Cost, seconds, seconds), min_size=1)


@settings(deadline=None, max_examples=60)
@given(costs_of_jobs, st.integers(1, 6), st.floats(0.0, 5.0))
def test_the_link_and_the_number_of_jobs_at_their_extremes(costs: dict[str, Cost], count: int, size: float) -> None:
    turns, sizes = dict.fromkeys(costs, count), dict.fromkeys(costs, size)
    resident = replayed(costs, turns, None)
    assert resident.state_wait_seconds == 0
    endless = replayed(costs, turns, sizes, inf)
    assert endless.total_seconds == pytest.approx(resident.total_seconds)
    assert endless.state_wait_seconds == 0
    slower = replayed(costs, turns, sizes, 1.0)
    assert slower.total_seconds >= resident.total_seconds - 1e-6
    assert slower.total_seconds <= resident.total_seconds + 2 * sum(turns.values()) * size + 1e-6, "at worst all waits"
    if len(costs) < 3:
        assert slower == resident


def test_moving_is_hidden_where_a_turn_takes_as_long_as_both_ways() -> None:
    turns = dict.fromkeys("abc", 20)
    # After the last turns there is nothing to hide behind: b comes back behind c's way out, and then c.
    assert replayed(THREE, turns, dict.fromkeys("abc", 0.5)).total_seconds == pytest.approx(60 + 3 * 0.5)
    assert replayed(THREE, turns, dict.fromkeys("abc", 0.6)).total_seconds > 60 + 3 * 0.6 + 50 * 0.2


def test_on_a_slow_link_the_time_lost_grows_linearly() -> None:
    turns, sizes = dict.fromkeys("abc", 20), dict.fromkeys("abc", 1.0)
    by_slowness = {n: replayed(THREE, turns, sizes, 1 / n) for n in (2, 4, 8, 16)}
    lost = {n: found.total_seconds - 60 for n, found in by_slowness.items()}
    assert lost[8] - lost[4] == pytest.approx(2 * (lost[4] - lost[2]))
    assert lost[16] - lost[8] == pytest.approx(2 * (lost[8] - lost[4]))
    assert lost[16] - lost[8] == pytest.approx(8 * 2 * 60), "60 turns, there and back"
    for found in by_slowness.values():
        assert found.state_wait_seconds == pytest.approx(found.total_seconds - 60)
        assert found.compute_idle_seconds == pytest.approx(found.state_wait_seconds)


def test_the_way_out_is_hidden_behind_the_wait_for_gradients() -> None:
    """Bound by the network: a turn takes 1 s, and 3 s of sending."""
    costs, turns = {name: Cost(1.0, 3.0) for name in "abc"}, dict.fromkeys("abc", 10)
    resident = replayed(costs, turns, None)
    moving = replayed(costs, turns, dict.fromkeys("abc", 1.0))
    assert moving.total_seconds == pytest.approx(resident.total_seconds, rel=0.02)
    assert replayed(costs, turns, dict.fromkeys("abc", 2.5)).total_seconds > 1.2 * resident.total_seconds


def test_several_turns_in_a_row_move_state_once() -> None:
    turns, sizes = dict.fromkeys("abc", 40), dict.fromkeys("abc", 2.0)
    one = replayed(THREE, turns, sizes)
    four = replayed(THREE, turns, sizes, order="aaaabbbbcccc")
    # 30 times four turns; that another job is next is known one turn before, 1 s too late for the 2 s back.
    assert four.total_seconds == pytest.approx(120 + 30 * 1, abs=5)
    assert one.total_seconds > 3 * four.total_seconds


def test_the_model_asks_for_copies_when_a_run_does(gangs: Callable[[int], Gang]) -> None:
    """Real runs, whose only part that is not real is the time: what computing and copying would take on a device."""
    draw = random.Random(9)
    gang, lost = gangs(1), 0
    for number in range(12):
        names = "abcde"[: draw.choice([2, 3, 3, 4, 5])]
        order = [*names, *(draw.choice(names) for _ in range(draw.randrange(4)))]
        draw.shuffle(order)
        computes = {name: draw.uniform(0.5, 2.0) for name in names}
        turns = {name: draw.randint(1, 7) for name in names}
        # Some so large that DDP's bucket stands in the gradient's place meanwhile, some smaller than what is moved.
        widths = {name: draw.choice([24, 40, 80, 160, 192]) for name in names}
        rate = draw.choice([30e3, 100e3, 300e3])
        report = gang.run("tests.distributed.jobs_admitted:device_seconds", order, widths, computes, turns, rate)[0]
        moved = {name: 2 * 4 * width**2 if width > 32 else 0 for name, width in widths.items()}
        assert report["moved"] == moved
        found, resident = (
            replay(
                Order(tuple(order)),
                {name: Cost(compute, 0.0) for name, compute in computes.items()},
                turns,
                num_workers=1,
                assumptions=Assumptions(num_buckets=1, offload=offload),
            )
            for offload in (OffloadModel(moved, rate), None)
        )
        assert found.total_seconds == pytest.approx(report["seconds"], rel=1e-9), f"instance {number}: {order} {turns}"
        lost += found.total_seconds > 1.05 * resident.total_seconds
    assert lost > 4
