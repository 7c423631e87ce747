"""Between turns only what Motet itself depends on is put back, and all of it before anybody else looks."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from motet import isolation
from motet.events import Event
from motet.isolation import registry
from motet.running import run


@pytest.fixture(autouse=True)
def _everything_as_before() -> Iterator[None]:
    before = isolation.take_all()
    kept = before.copy()
    yield
    isolation.put_all(kept)


def test_between_turns_only_what_is_near_is_put_back() -> None:
    outside = isolation.take_all()
    jobs = [outside.copy(), outside.copy()]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = [(random.random(), np.random.randn(), torch.rand(()).item()) for _ in range(8)]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    outside = left = isolation.take_all()
    drawn: list[list[tuple[float, float, float]]] = [[], []]
    for turn in range(8):
        for number in (0, 1):
            isolation.swap_in(jobs[number], left, outside)
            if turn == 0:
                random.seed(1), np.random.seed(1), torch.manual_seed(1)
                torch.set_grad_enabled(bool(number))
            assert torch.is_grad_enabled() == bool(number)
            drawn[number].append((random.random(), np.random.randn(), torch.rand(()).item()))
            jobs[number] = left = isolation.swap_out(outside)
            assert torch.is_grad_enabled(), "Motet's own code finds its own"
    isolation.restore_outside(outside, left)
    assert drawn == [expected, expected]
    after = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert after == (random.random(), np.random.rand(), torch.rand(()).item())


def test_motets_own_code_computes_as_deterministically_as_the_run_and_not_as_a_job() -> None:
    outside = left = isolation.take_all()
    job = outside.copy()
    isolation.swap_in(job, left, outside)
    torch.use_deterministic_algorithms(True)
    left = isolation.swap_out(outside)
    assert not torch.are_deterministic_algorithms_enabled()
    isolation.swap_in(left, left, outside)
    assert torch.are_deterministic_algorithms_enabled()


def test_all_is_put_back_where_it_is_not_known_what_was_left() -> None:
    random.seed(5)
    outside = isolation.take_all()
    job = outside.copy()
    isolation.swap_in(job, outside, outside)
    random.seed(6), torch.set_grad_enabled(False)
    isolation.restore_outside(outside, None)
    assert torch.is_grad_enabled()
    drawn = random.random()
    random.seed(5)
    assert drawn == random.random()


def test_what_leaving_inference_mode_changes_is_put_back_between_turns() -> None:
    # As they are inside inference mode: what differed would be put back in any case.
    torch.set_grad_enabled(False), torch._C._set_fwd_grad_enabled(False)
    torch._C._set_multithreading_enabled(False)
    outside = isolation.take_all()
    job = outside.copy()
    isolation.swap_in(job, outside, outside)
    mode = torch.inference_mode()
    mode.__enter__()
    job = left = isolation.swap_out(outside)
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_grad_enabled(), "as it was outside, though leaving inference mode switches it on"
    isolation.swap_in(job, left, outside)
    assert torch.is_inference_mode_enabled()
    mode.__exit__(None, None, None)
    isolation.restore_outside(outside, isolation.swap_out(outside))
    assert not torch.is_inference_mode_enabled()


def test_what_is_put_back_more_than_once_is_no_live_object() -> None:
    with pytest.raises(AssertionError, match="live object"):
        registry.add("a list", list, lambda value: None, copy=list, restore_between_turns=True)


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
