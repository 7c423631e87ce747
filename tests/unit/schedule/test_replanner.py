"""All workers come to the same order from what all have told, and change it for a reason only."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motet.schedule.costs import TURNS_NEEDED, Cost
from motet.schedule.order import Cursor, Order, round_robin
from motet.schedule.replanner import (
    DRIFT,
    REPORT_EVERY,
    SYNCS_SKIPPED,
    TURNS_SKIPPED,
    WORTH_CHANGING,
    Change,
    Replanner,
    SyncSample,
    drift,
)
from motet.schedule.replay import assumed_turns, fewer_turns, replay
from motet.schedule.weights import MAX_ROUND_TURNS

MEGABYTE = 1_000_000
UNEQUAL = {"embedding": Cost(0.01, 0.1, 8 * MEGABYTE), "conv": Cost(0.01, 0.001, MEGABYTE // 10)}


class Gang:
    """The planning of several workers of which each sees the costs with noise of its own."""

    def __init__(self, num_workers: int, order: Order | None, names: list[str], noise: float = 0.0) -> None:
        self.workers = [Replanner(order, names) for _ in range(num_workers)]
        self.num_synced = dict.fromkeys(names, 0)
        self.expected: dict[str, int | None] = dict.fromkeys(names)
        self._noise = [random.Random(worker) for worker in range(num_workers)]
        self._spread = noise

    def turns(self, costs: Mapping[str, Cost], num_turns: int = TURNS_SKIPPED + TURNS_NEEDED) -> None:
        for name, cost in costs.items():
            self.num_synced[name] += num_turns
            for _ in range(num_turns):
                for worker, noise in zip(self.workers, self._noise, strict=True):
                    late = noise.uniform(0, self._spread)
                    worker.computed(name, 0.0, cost.compute_seconds * (1 + late), 0.0)
                    waited = cost.sync_seconds * (1 + noise.uniform(0, self._spread))
                    worker.synced(name, SyncSample(waited, waited, cost.sync_bytes))

    def first_known(self) -> bool:
        """Whether an agreement is to be made at once; the workers' answers must be one."""
        answers = {worker.first_known(self.num_synced) for worker in self.workers}
        assert len(answers) == 1
        return answers.pop()

    def agree(self) -> Change | None:
        """Tell and hear on all workers; their answers must be one."""
        notices = [worker.report_costs(self.expected) for worker in self.workers]
        assert len({len(figures) for figures in notices}) == 1
        if not notices[0]:
            return None
        return self.one([worker.receive_costs(notices, self.num_synced) for worker in self.workers])

    def end(self, job: str) -> Change | None:
        del self.num_synced[job], self.expected[job]
        return self.one([worker.ended(job, self.num_synced) for worker in self.workers])

    def one(self, changes: list[Change | None]) -> Change | None:
        assert all(change == changes[0] for change in changes)
        assert len({worker.order for worker in self.workers}) == 1
        return changes[0]


def agree_until_told(gang: Gang) -> Change | None:
    """Agree as often as it takes until costs are told with it."""
    for _ in range(REPORT_EVERY):
        if (change := gang.agree()) is not None:
            return change
    return None


def test_a_run_begins_with_a_round_robin_and_goes_on_with_a_determined_order() -> None:
    gang = Gang(2, None, ["embedding", "conv"])
    assert gang.workers[0].order == round_robin(["embedding", "conv"])
    gang.turns(UNEQUAL, TURNS_SKIPPED)
    assert not gang.first_known()
    assert gang.agree() is None, "the first turns are no costs"
    gang.turns(UNEQUAL, 1)
    assert gang.first_known()
    change = gang.agree()
    assert change is not None
    assert change.order.weights["conv"] == 10 * change.order.weights["embedding"]
    assert change.reason == "the costs of 2 jobs are known"
    assert not gang.first_known()


def test_what_the_first_two_turns_compute_and_the_first_one_syncs_is_no_cost() -> None:
    gang = Gang(2, None, ["embedding", "conv"])
    gang.turns({"embedding": Cost(7.0, 9.0, 1), "conv": Cost(8.0, 6.0, 1)}, SYNCS_SKIPPED)
    gang.turns({"embedding": Cost(7.0, 0.1, 1), "conv": Cost(8.0, 0.001, 1)}, TURNS_SKIPPED - SYNCS_SKIPPED)
    gang.turns(UNEQUAL, 1)
    gang.agree()
    assert {(name, c.compute_seconds, c.sync_seconds) for name, c in gang.workers[0].costs.items()} == {
        ("embedding", 0.01, 0.1),
        ("conv", 0.01, 0.001),
    }


def test_the_first_order_is_asked_for_once_and_by_nobody_who_needs_none() -> None:
    gang = Gang(2, Order(("embedding", "conv")), ["embedding", "conv"])
    gang.turns(UNEQUAL, 9)
    assert not gang.first_known(), "the order was given"
    alone = Gang(2, None, ["conv"])
    alone.turns({"conv": UNEQUAL["conv"]}, 9)
    assert not alone.first_known(), "one job alone needs no order"
    for worker in (gang := Gang(2, None, ["embedding", "conv"])).workers:
        assert not worker.first_known([]), "all have ended"
    gang.turns(UNEQUAL, 9)
    for worker in gang.workers:
        worker.report_costs(gang.expected)
    assert not gang.first_known(), "it has been told, and will be heard a round later"


def test_a_job_that_never_synchronizes_is_not_waited_for_at_once() -> None:
    gang = Gang(2, None, ["embedding", "conv", "silent"])
    gang.turns(UNEQUAL, 9)
    assert not gang.first_known()
    assert gang.agree() is None
    gang.end("silent")
    assert {worker.order for worker in gang.workers} != {round_robin(["embedding", "conv", "silent"])}


def test_a_first_turn_that_was_three_times_too_long_is_corrected_by_the_next() -> None:
    """As if it had been compiled once more: the job looks dear, and gets too few turns."""
    gang = Gang(3, None, ["embedding", "conv"], noise=0.02)
    gang.turns(UNEQUAL, TURNS_SKIPPED)
    gang.turns({**UNEQUAL, "conv": Cost(0.03, 0.003, MEGABYTE // 10)}, 1)
    change = gang.agree()
    assert change is not None
    assert change.order.weights["conv"] < 4 * change.order.weights["embedding"], "wrong, as was to be expected"
    gang.turns(UNEQUAL, 1)
    change = gang.agree()
    assert change is not None, "a drift need not last where costs rest on few turns"
    assert change.order.weights["conv"] >= 5 * change.order.weights["embedding"], "half way"
    gang.turns(UNEQUAL, TURNS_NEEDED - 2)
    change = gang.agree()
    assert change is not None
    assert change.reason == "more turns have been measured"
    assert change.order.weights["conv"] == pytest.approx(10 * change.order.weights["embedding"], rel=0.1)


def test_a_provisional_order_is_determined_once_more_when_turns_are_enough() -> None:
    # A tenth off: no drift, and yet another order.
    gang = Gang(2, None, ["embedding", "conv"])
    gang.turns({**UNEQUAL, "conv": Cost(0.0125, 0.001)}, TURNS_SKIPPED + 1)
    first = gang.agree()
    assert first is not None
    gang.turns(UNEQUAL, TURNS_NEEDED - 2)
    assert gang.agree() is None, "one turn is missing"
    gang.turns(UNEQUAL, 1)
    second = gang.agree()
    assert second is not None
    assert second.reason == "more turns have been measured"
    assert second.order.weights["conv"] == 10 * second.order.weights["embedding"]
    assert sum(bool(gang.workers[0].report_costs(gang.expected)) for _ in range(3 * REPORT_EVERY)) == 3, (
        "as rarely as ever"
    )


def test_an_order_that_was_given_is_never_changed() -> None:
    order = Order(("embedding", "conv", "conv"))
    gang = Gang(2, order, ["embedding", "conv", "late"])
    gang.turns(UNEQUAL, 20)
    assert all(worker.report_costs(gang.expected) == [] for worker in gang.workers), "nobody asks"
    assert gang.end("late") is None
    assert gang.workers[0].order is order


def test_lengths_count_once_a_job_has_reported_them() -> None:
    gang = Gang(2, None, ["embedding", "conv"])
    gang.turns(UNEQUAL)
    gang.agree()
    gang.expected.update(embedding=105, conv=2005)
    change = agree_until_told(gang)
    assert change is not None
    assert change.order.weights["conv"] == 20 * change.order.weights["embedding"]
    assert change.reason == "jobs have said how long they are"
    assert agree_until_told(gang) is None


def test_workers_that_know_different_lengths_count_with_the_longest() -> None:
    workers = [Replanner(None, ["embedding", "conv"]) for _ in range(2)]
    gang = Gang(2, None, ["embedding", "conv"])
    gang.workers = workers
    gang.turns(UNEQUAL)
    notices = [
        workers[0].report_costs({"embedding": 5 + 10, "conv": None}),
        workers[1].report_costs({"embedding": 5 + 20, "conv": 5 + 400}),
    ]
    change = gang.one([worker.receive_costs(notices, gang.num_synced) for worker in workers])
    assert change is not None
    assert change.order.weights["conv"] == 20


def test_a_drift_changes_the_order_when_it_has_lasted() -> None:
    gang = Gang(3, None, ["embedding", "conv"], noise=0.05)
    gang.turns(UNEQUAL, 20)
    gang.agree()
    slower = {**UNEQUAL, "conv": Cost(0.05, 0.001)}
    gang.turns(slower, 20)
    assert agree_until_told(gang) is None, "once may be chance"
    change = agree_until_told(gang)
    assert change is not None
    assert "job 'conv' changed by" in change.reason
    assert change.order.weights["conv"] < 4 * change.order.weights["embedding"]


def test_noise_changes_nothing() -> None:
    gang = Gang(2, None, ["embedding", "conv"], noise=DRIFT / 2)
    gang.turns(UNEQUAL)
    assert gang.agree() is not None
    for _ in range(10):
        gang.turns(UNEQUAL, 5)
        assert agree_until_told(gang) is None


def test_a_drift_that_would_gain_nothing_changes_nothing() -> None:
    equal = {"a": Cost(0.01, 0.01), "b": Cost(0.01, 0.01)}
    gang = Gang(2, None, ["a", "b"])
    gang.turns(equal)
    gang.agree()
    gang.turns({name: Cost(0.02, 0.02) for name in equal}, 20)
    assert all(agree_until_told(gang) is None for _ in range(4))
    assert gang.workers[0].order.weights == {"a": 1, "b": 1}


def test_costs_are_reported_less_often_once_they_are_known() -> None:
    gang = Gang(2, None, ["embedding", "conv"])
    gang.turns(UNEQUAL)
    gang.agree()
    notices = [bool(gang.workers[0].report_costs(gang.expected)) for _ in range(3 * REPORT_EVERY)]
    assert sum(notices) == 3


def test_when_a_job_ends_the_others_share_anew_without_asking() -> None:
    gang = Gang(2, None, ["embedding", "conv", "other"])
    gang.turns({**UNEQUAL, "other": Cost(0.1, 0.001)}, 20)
    gang.agree()
    change = gang.end("other")
    assert change is not None
    assert set(change.order.names) == {"embedding", "conv"}
    assert change.order.weights["conv"] == 10 * change.order.weights["embedding"]
    assert gang.end("conv") is None, "one job alone needs no order"


def test_a_job_that_joins_is_measured_in_a_round_robin() -> None:
    gang = Gang(2, None, ["embedding", "conv"])
    gang.turns(UNEQUAL, 20)
    gang.agree()
    gang.num_synced["new"], gang.expected["new"] = 0, None
    change = gang.one([worker.joined("new", ["embedding", "conv"]) for worker in gang.workers])
    assert change == Change(Order(("embedding", "conv", "new")), "job 'new' joined")
    assert gang.agree() is None
    gang.turns({"new": Cost(0.01, 0.2)}, 20)
    change = gang.agree()
    assert change is not None
    assert change.reason == "the costs of job 'new' are known"
    assert gang.one([worker.joined("new", ["embedding", "conv"]) for worker in gang.workers]) is None


costs = st.builds(Cost, st.floats(0, 10), st.floats(0, 10), st.integers(0, 10**9))


@settings(deadline=None, max_examples=10)
@given(st.dictionaries(st.sampled_from("abcde"), costs, min_size=2), st.data())
def test_workers_agree_whatever_they_see(before: dict[str, Cost], data: st.DataObject) -> None:
    gang = Gang(3, None, sorted(before), noise=0.5)
    gang.turns(before, 8)
    change = gang.agree()
    assert change is None or set(change.order.names) == set(before)
    after = {name: data.draw(costs) for name in before}
    gang.turns(after, 8)
    for name in sorted(before):
        agree_until_told(gang)
        agree_until_told(gang)
        gang.end(name)


class Slots:
    """A run on several workers, slot by slot as the pipeline takes them, in which turns take what they are said to."""

    def __init__(self, names: list[str], seconds: Callable[[str, int], Cost]) -> None:
        self.gang = Gang(2, None, names)
        self.taken: list[str] = []
        self.changes: list[tuple[int, Change]] = []
        self._cursor = Cursor(self.gang.workers[0].order)
        self._seconds = seconds

    def take(self, num_slots: int, agree_every: int) -> None:
        """Take so many slots, and tell costs with every so manieth and when the first order is known."""
        for _ in range(num_slots):
            job = self._cursor.next(self.gang.num_synced)
            self.taken.append(job)
            turn = self.gang.num_synced[job] = self.gang.num_synced[job] + 1
            for number, worker in enumerate(self.gang.workers):
                if turn > 1:  # the last turn's gradients arrive when the next turn begins
                    cost = self._seconds(job, turn - 1)
                    worker.synced(job, SyncSample(cost.sync_seconds * (1 + number), cost.sync_seconds, cost.sync_bytes))
                worker.computed(job, 0.0, self._seconds(job, turn).compute_seconds, 0.0)
            if self.gang.first_known() or len(self.taken) % agree_every == 0:
                change = self.gang.agree()
                if change is not None:
                    self._cursor.change(change.order)
                    self.changes.append((len(self.taken), change))


def test_the_first_order_is_there_after_three_rounds_and_goes_on_where_they_ended() -> None:
    slots = Slots(["embedding", "conv"], lambda job, turn: UNEQUAL[job])
    slots.take(40, agree_every=1000)
    (after, change), *_ = slots.changes
    assert after == 6
    assert change.order.turns == ("embedding", *["conv"] * 10)
    assert slots.taken[6:17] == ["conv"] * 9 + ["embedding", "conv"], "embedding's gradients are still under way"


@settings(deadline=None, max_examples=15)
@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.builds(Cost, st.floats(0.001, 1), st.floats(0.001, 1), st.integers(1, 10**9)),
        min_size=2,
    ),
    st.lists(st.floats(0.01, 100), min_size=12, max_size=12),
    st.integers(1, 20),
)
def test_noise_in_the_first_turns_starves_nobody_and_is_gone_when_they_are_enough(
    costs: dict[str, Cost], factors: list[float], agree_every: int
) -> None:
    """Up to a hundred times too much or too little, in the turns that are no measure and in the first that is."""

    def seconds(job: str, turn: int) -> Cost:
        factor = factors[3 * "abcd".index(job) + turn - 1] if turn <= TURNS_SKIPPED + 1 else 1.0
        return Cost(costs[job].compute_seconds * factor, costs[job].sync_seconds * factor, costs[job].sync_bytes)

    slots = Slots(sorted(costs), seconds)
    slots.take(3 * len(costs), agree_every)
    assert not slots.gang.first_known(), "what can be known has been told"
    assert set(slots.gang.workers[0].costs) == set(costs)
    # Three more turns of each job, and the arrival of the last one, in rounds that hold each at least once.
    slots.take(4 * MAX_ROUND_TURNS + 2 * agree_every * REPORT_EVERY, agree_every)
    places = {name: [-1, *(at for at, taken in enumerate(slots.taken) if taken == name)] for name in costs}
    for name, at in places.items():
        assert max(y - x for x, y in itertools.pairwise([*at, len(slots.taken)])) <= 2 * MAX_ROUND_TURNS, name
    planning = slots.gang.workers[0]
    for name, cost in planning.costs.items():
        assert drift(costs[name], cost) <= DRIFT, f"{name} is not known rightly: {cost}"
    turns = fewer_turns(assumed_turns(planning.costs, {}), 500)
    total = [
        replay(order, planning.costs, turns).total_seconds for order in (planning.order, round_robin(sorted(costs)))
    ]
    assert total[0] <= total[1] * WORTH_CHANGING


def test_what_was_reported_before_a_job_ended_is_taken_for_what_it_is() -> None:
    costs = {"a": Cost(0.1, 0.1), "b": Cost(0.2, 0.1), "c": Cost(0.3, 0.1)}
    gang = Gang(2, None, list(costs))
    gang.turns(costs)
    notices = [worker.report_costs(gang.expected) for worker in gang.workers]
    gang.end("a")
    gang.one([worker.receive_costs(notices, gang.num_synced) for worker in gang.workers])
    for worker in gang.workers:
        assert {name: cost.compute_seconds for name, cost in worker.costs.items()} == pytest.approx(
            {"b": 0.2, "c": 0.3}
        )
