"""Between turns only what Motet itself depends on is put back, and all of it before anybody else looks."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from motet import isolation
from motet.errors import MotetError
from motet.events import Event
from motet.isolation import registry
from motet.running import run


@pytest.fixture(autouse=True)
def _everything_as_before() -> Iterator[None]:
    before = isolation.take_all()
    kept = before.copy()
    yield
    isolation.put_all(kept)


class Job:
    """Someone who has a state of their own."""

    def __init__(self) -> None:
        self.saved: isolation.Saved | None = isolation.take_all().copy()


@pytest.mark.parametrize("order", [(0, 1), (0, 0, 1), (1, 0, 0, 1, 1, 1)])
def test_between_turns_only_what_is_near_is_put_back(order: tuple[int, ...]) -> None:
    jobs = [Job(), Job()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [(random.random(), np.random.randn(), torch.rand(()).item()) for _ in range(40)]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    present = isolation.Present()
    drawn: list[list[tuple[float, float, float]]] = [[], []]
    for number in order * 6:
        present.enter(jobs[number])
        if not drawn[number]:
            random.seed(1), np.random.seed(1), torch.manual_seed(1)
            torch.set_grad_enabled(bool(number))
        assert torch.is_grad_enabled() == bool(number)
        drawn[number].append((random.random(), np.random.randn(), torch.rand(()).item()))
        present.leave()
        assert torch.is_grad_enabled(), "Motet's own code finds its own"
    present.settle()
    for mine in drawn:
        assert mine == expected[: len(mine)]
    after = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert after == (random.random(), np.random.rand(), torch.rand(()).item())


def test_code_of_others_between_two_turns_of_one_job_finds_its_own() -> None:
    job, present = Job(), isolation.Present()
    for turn in range(3):
        random.seed(turn)
        before = random.getstate()
        present.enter(job)
        if turn == 0:
            random.seed(7)
        drawn = random.random()
        present.leave()
        present.settle()
        assert random.getstate() == before
        random.seed(7)
        assert drawn == [random.random() for _ in range(turn + 1)][-1]


def test_what_only_others_would_see_is_not_looked_at_while_one_job_goes_on() -> None:
    looks: list[str] = []
    isolation.register("looks", take=lambda: looks.append("take"), put=lambda value: looks.append("put"))
    try:
        job, other, present = Job(), Job(), isolation.Present()
        looks.clear()
        present.enter(job)
        assert looks == ["take", "put"]
        for _ in range(5):
            present.leave()
            present.enter(job)
        assert looks == ["take", "put"]
        present.leave()
        present.enter(other)
        assert looks == ["take", "put"] * 2
        present.leave()
        present.settle()
        assert looks == ["take", "put"] * 3
    finally:
        isolation.unregister("looks")


def test_a_job_that_has_ended_keeps_nothing() -> None:
    job, other, present = Job(), Job(), isolation.Present()
    for one in (job, other):
        present.enter(one)
        present.leave()
        present.forget(one)
    present.settle()
    assert job.saved is other.saved is None


@pytest.mark.parametrize("near", [True, False])
def test_all_is_put_back_where_it_cannot_be_told_what_is_there(near: bool) -> None:
    def take() -> None:
        raise RuntimeError("out of order")

    random.seed(5)
    job, present = Job(), isolation.Present()
    present.enter(job)
    random.seed(6), torch.set_grad_enabled(False)
    registry.add("broken", take, lambda value: None, near=near)
    try:
        if near:
            with pytest.raises(MotetError, match="out of order"):
                present.leave()
            present.settle()
        else:
            present.leave()
            with pytest.raises(MotetError, match="out of order"):
                present.settle()
    finally:
        isolation.unregister("broken")
    assert torch.is_grad_enabled()
    drawn = random.random()
    random.seed(5)
    assert drawn == random.random()


def test_what_is_put_back_more_than_once_is_no_live_object() -> None:
    with pytest.raises(AssertionError, match="live object"):
        registry.add("a list", list, lambda value: None, copy=list, near=True)


class Drawing:
    """An observer that uses what is global."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def observe(self, event: Event) -> None:
        self.drawn.append(random.random())
        os.environ["MOTET_TEST_OBSERVED"] = str(len(self.drawn))


class Quiet:
    """An observer that says that it changes nothing."""

    changes_nothing_global = True

    def observe(self, event: Event) -> None:
        pass


def draw_and_train(steps: int, seed: int) -> list[float]:
    random.seed(seed)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    drawn = []
    for _ in range(steps):
        drawn.append(random.random())
        model(torch.ones(1, 2)).sum().backward()
    return drawn


@pytest.mark.parametrize("quiet", [True, False])
def test_observers_and_jobs_keep_what_is_theirs(quiet: bool) -> None:
    random.seed(3)
    expected = [random.random() for _ in range(100)]
    random.seed(3)
    observer = Drawing()
    jobs = {name: lambda seed=seed: draw_and_train(10, seed) for seed, name in enumerate(("a", "b"))}
    results = run(jobs, observers=[Quiet()] if quiet else [observer, Quiet()], order="a,b")
    for seed, name in enumerate(("a", "b")):
        random.seed(seed)
        assert results[name].result == [random.random() for _ in range(10)]
    if not quiet:
        assert len(observer.drawn) > 40
        assert observer.drawn == expected[: len(observer.drawn)]
        assert os.environ["MOTET_TEST_OBSERVED"] == str(len(observer.drawn))
