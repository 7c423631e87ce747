"""Buckets leave in the order in which they were sent, when the link is theirs."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from motet.gradients.send_queue import WINDOW_BYTES, SendQueue
from motet.schedule.order import Order, parse_order, priority_classes

LARGE = WINDOW_BYTES + 1


class Network:
    """Takes note of what was launched; a bucket arrives when the test says so."""

    def __init__(self) -> None:
        self.launched: list[str] = []
        self._arrivals: dict[str, Callable[[], None]] = {}

    def bucket(self, name: str) -> Callable[[Callable[[], None]], None]:
        def launch(arrived: Callable[[], None]) -> None:
            self.launched.append(name)
            self._arrivals[name] = arrived

        return launch

    def arrives(self, name: str) -> None:
        self._arrivals.pop(name)()

    @property
    def in_flight(self) -> list[str]:
        return list(self._arrivals)


def test_a_jobs_own_buckets_do_not_wait_for_each_other() -> None:
    queue, network = SendQueue(Order(("a", "b"))), Network()
    queue.send("a", LARGE, network.bucket("a1"))
    queue.send("a", LARGE, network.bucket("a2"))
    assert network.launched == ["a1", "a2"]


def test_a_bucket_leaves_when_those_of_other_jobs_before_it_have_arrived() -> None:
    queue, network = SendQueue(Order(("a", "b", "c"))), Network()
    for job in "abc":
        queue.send(job, LARGE, network.bucket(job + "1"))
        queue.send(job, LARGE, network.bucket(job + "2"))
    assert network.launched == ["a1", "a2"]
    network.arrives("a2")
    assert network.launched == ["a1", "a2"]
    network.arrives("a1")
    assert network.launched == ["a1", "a2", "b1", "b2"]
    network.arrives("b1")
    network.arrives("b2")
    assert network.launched[4:] == ["c1", "c2"]


def test_behind_little_nobody_waits() -> None:
    queue, network = SendQueue(Order(("a", "b"))), Network()
    queue.send("a", WINDOW_BYTES, network.bucket("a"))
    queue.send("b", LARGE, network.bucket("b"))
    assert network.launched == ["a", "b"]


def test_a_small_bucket_does_not_pass_a_large_one_that_was_sent_before_it() -> None:
    queue, network = SendQueue(Order(("a", "b", "c"))), Network()
    queue.send("a", LARGE, network.bucket("a"))
    queue.send("b", LARGE, network.bucket("b"))
    queue.send("c", 1, network.bucket("c"))
    assert network.launched == ["a"]
    network.arrives("a")
    assert network.launched == ["a", "b"]


def test_jobs_that_come_round_far_more_often_share_the_link() -> None:
    assert priority_classes(parse_order("b,b,b,b,a,c,c,d,d,d", list("abcd"))) == {"a": 2, "b": 0, "c": 1, "d": 0}
    queue, network = SendQueue(Order(("b", "b", "a"))), Network()
    queue.send("a", LARGE, network.bucket("a"))
    queue.send("b", LARGE, network.bucket("b"))
    assert network.launched == ["a", "b"]


def test_a_new_order_counts_for_what_is_sent_after_it() -> None:
    queue, network = SendQueue(Order(("a", "b"))), Network()
    queue.send("a", LARGE, network.bucket("a1"))
    queue.follow(Order(("b", "b", "a")))
    queue.send("b", LARGE, network.bucket("b1"))
    assert network.launched == ["a1"]  # both in the queue of those that come often
    queue.follow(Order(("a", "a", "b")))
    queue.send("a", LARGE, network.bucket("a2"))
    assert network.launched == ["a1"]  # behind b1, which was sent before it
    network.arrives("a1")
    assert network.launched == ["a1", "b1"]


def test_a_collective_that_is_over_at_once_lets_the_next_one_leave() -> None:
    queue, launched = SendQueue(Order(("a", "b"))), []
    network = Network()

    def at_once(name: str) -> Callable[[Callable[[], None]], None]:
        def launch(arrived: Callable[[], None]) -> None:
            launched.append(name)
            arrived()

        return launch

    queue.send("b", LARGE, network.bucket("first"))
    for number in range(1000):  # no recursion, however many
        queue.send("a", LARGE, at_once(str(number)))
    assert launched == []
    network.arrives("first")
    assert launched == [str(number) for number in range(1000)]


def test_closed_it_launches_nothing() -> None:
    queue, network = SendQueue(Order(("a", "b"))), Network()
    queue.send("a", LARGE, network.bucket("a"))
    queue.send("b", LARGE, network.bucket("b"))
    queue.close()
    network.arrives("a")
    queue.send("a", LARGE, network.bucket("a"))
    assert network.launched == ["a"]


@settings(deadline=None)
@given(
    turns=st.lists(
        st.tuples(st.sampled_from("abcd"), st.lists(st.sampled_from([1, WINDOW_BYTES, LARGE]), max_size=4)), max_size=20
    ),
    rounds=st.lists(st.lists(st.sampled_from("abcd"), max_size=6), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
def test_workers_that_see_buckets_arrive_differently_never_wait_for_each_other(
    turns: list[tuple[str, list[int]]], rounds: list[list[str]], seed: int
) -> None:
    """A bucket arrives once all workers have launched it. A job's turn begins when its gradients have arrived."""
    orders, rng = [Order(tuple("abcd" + "".join(more))) for more in rounds], random.Random(seed)
    workers = [Worker(orders[0]) for _ in range(2)]
    while not all(worker.num_begun == len(turns) and not worker.network.in_flight for worker in workers):
        steps: list[Callable[[], None]] = []
        for worker in workers:
            everywhere = [n for n in worker.network.in_flight if all(n in w.network.launched for w in workers)]
            steps += [partial(worker.network.arrives, name) for name in everywhere]
            if worker.num_begun < len(turns) and worker.is_synced(turns[worker.num_begun][0]):
                order = orders[worker.num_begun * len(orders) // len(turns)]
                steps.append(partial(worker.take_turn, order, *turns[worker.num_begun]))
        assert steps, "all workers wait"
        rng.choice(steps)()
    sent = [f"{job} {turn} {number}" for turn, (job, sizes) in enumerate(turns) for number in range(len(sizes))]
    for worker in workers:
        for job in "abcd":  # on its lane, in the order in which they were sent
            assert [n for n in worker.network.launched if n[0] == job] == [n for n in sent if n[0] == job]


class Worker:
    """One worker of a run: its queue, and which turns it has taken."""

    def __init__(self, order: Order) -> None:
        self.queue, self.network, self.num_begun = SendQueue(order), Network(), 0
        self._sent: list[str] = []

    def is_synced(self, job: str) -> bool:
        under_way = self.network.in_flight
        return all(n in self.network.launched and n not in under_way for n in self._sent if n[0] == job)

    def take_turn(self, order: Order, job: str, sizes: list[int]) -> None:
        self.queue.follow(order)
        for number, num_bytes in enumerate(sizes):
            name = f"{job} {self.num_begun} {number}"
            self._sent.append(name)
            self.queue.send(job, num_bytes, self.network.bucket(name))
        self.num_begun += 1


def test_threads_that_send_and_see_arrivals_keep_the_order_of_a_lane() -> None:
    queue = SendQueue(Order(("a", "b")))
    launched: list[tuple[str, int]] = []
    all_arrived = threading.Semaphore(0)

    def bucket(job: str, number: int) -> Callable[[Callable[[], None]], None]:
        def launch(arrived: Callable[[], None]) -> None:
            launched.append((job, number))

            def arrive() -> None:
                arrived()
                all_arrived.release()

            threading.Timer(random.random() / 1000, arrive).start()

        return launch

    for number in range(100):
        for job in "ab":
            queue.send(job, LARGE, bucket(job, number))
    for _ in range(200):
        assert all_arrived.acquire(timeout=20)
    for job in "ab":
        assert [number for name, number in launched if name == job] == list(range(100))
