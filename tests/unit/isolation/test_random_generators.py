"""Each job draws from random generators of its own, as if it were alone."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from tests.unit.isolation.test_isolation import Job, alternate

from motet import isolation
from motet.isolation import random_generators

DRAWS: dict[str, tuple[Callable[[int], object], Callable[[], float]]] = {
    "torch": (torch.manual_seed, lambda: torch.randn(()).item()),
    "random": (random.seed, random.random),
    "random.gauss": (random.seed, lambda: random.gauss(0, 1)),
    "numpy": (np.random.seed, np.random.rand),
    "numpy.randn": (np.random.seed, np.random.randn),  # keeps every second normal for its next call
}


@pytest.fixture(autouse=True)
def _everything_as_before() -> Iterator[None]:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    yield
    torch.set_rng_state(before[0])
    random.setstate(before[1])
    np.random.set_state(before[2])


@pytest.fixture(params=["exchanged", "copied"])
def _numpy_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "copied":
        monkeypatch.setattr(random_generators, "_window_works", False)


@pytest.mark.usefixtures("_numpy_way")
@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("num_draws", [1, 2, 3])
def test_each_job_draws_what_it_draws_alone(kind: str, num_draws: int) -> None:
    seed, draw = DRAWS[kind]

    def alone(number: int) -> list[float]:
        seed(number)
        return [draw() for _ in range(num_draws * 4)]

    expected = {number: alone(number) for number in (1, 2)}
    drawn: dict[int, list[float]] = {1: [], 2: []}

    def job(number: int) -> Job:
        seed(number)
        for _ in range(4):
            drawn[number] += [draw() for _ in range(num_draws)]
            yield

    seed(0)
    outside = [draw() for _ in range(9)][3:]
    seed(0)
    for _ in range(3):
        draw()
    alternate(job(1), job(2))
    assert drawn == expected
    assert [draw() for _ in range(6)] == outside


@pytest.mark.usefixtures("_numpy_way")
@pytest.mark.parametrize("kind", DRAWS)
def test_jobs_that_do_not_seed_begin_where_the_caller_was(kind: str) -> None:
    seed, draw = DRAWS[kind]
    seed(5)
    draw()
    expected = [draw() for _ in range(4)]
    seed(5)
    draw()
    drawn: list[list[float]] = [[], []]

    def job(mine: list[float]) -> Job:
        for _ in range(4):
            mine.append(draw())
            yield

    alternate(*(job(mine) for mine in drawn))
    assert drawn == [expected, expected]
    assert [draw() for _ in range(4)] == expected


def test_numpys_generator_is_exchanged_with_this_numpy() -> None:
    assert random_generators.numpy_window_works()
    before = np.random.get_bit_generator()
    isolation.put_all(isolation.take_all())
    assert np.random.get_bit_generator() is before


def test_another_kind_of_bit_generator_stays_with_its_job() -> None:
    before = np.random.get_bit_generator()

    def job() -> Job:
        np.random.set_bit_generator(np.random.PCG64(3))
        expected = np.random.RandomState(np.random.PCG64(3)).rand(2).tolist()
        drawn = [np.random.rand()]
        yield
        drawn.append(np.random.rand())
        assert drawn == expected

    def other() -> Job:
        for _ in range(2):
            assert isinstance(np.random.get_bit_generator(), np.random.MT19937)
            yield

    alternate(job(), other())
    assert np.random.get_bit_generator() is before


_LATE_IMPORT = """
import sys
import motet.isolation as isolation
import motet.isolation.random_generators as generators
# As where torch was built without NumPy: the entry is inactive.
hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "numpy"}
outside = isolation.take_all()
job, other = outside.copy(), outside.copy()
outside = isolation.exchange(job)
sys.modules.update(hidden)
import numpy as np
np.random.seed(1)
first = np.random.rand()
job = isolation.exchange(other)
assert "numpy.random" in job.values and "numpy.random" not in outside.values
drawn = np.random.rand()
isolation.exchange(job)
second = np.random.rand()
np.random.seed(1)
assert [first, second] == np.random.rand(2).tolist()
assert drawn not in (first, second)
"""


def test_numpy_imported_by_one_job() -> None:
    subprocess.run([sys.executable, "-c", _LATE_IMPORT], check=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="about seeds that wait for CUDA")
def test_seeds_that_wait_for_cuda_stay_with_their_jobs() -> None:
    tracker = torch.cuda._lazy_seed_tracker
    before = list(tracker.call_order)
    waiting = []

    def job(number: int) -> Job:
        torch.cuda.manual_seed_all(number)
        mine = tracker.manual_seed_all_cb
        waiting.append(mine)
        for _ in range(2):
            yield
            assert tracker.manual_seed_all_cb is mine

    alternate(job(1), job(2))
    assert waiting[0] is not waiting[1]
    assert tracker.call_order == before


class StandIn:
    """A device's generator: what matters of it is that its state can be exchanged for another one, or copied."""

    def __init__(self, state: list[int]) -> None:
        self.state = state

    def graphsafe_get_state(self) -> StandIn:
        return StandIn(self.state)

    def graphsafe_set_state(self, other: StandIn) -> None:
        self.state = other.state

    def clone_state(self) -> StandIn:
        return StandIn(list(self.state))

    def manual_seed(self, seed: int) -> None:
        self.state[0] = seed

    def seed(self) -> None:
        self.state[0] = -1000

    def draw(self) -> int:
        self.state[0] += 1
        return self.state[0]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> tuple[StandIn, StandIn]:
    """Two devices whose generators are there as soon as ``torch.cuda.is_initialized`` says so."""
    generators = (StandIn([1]), StandIn([2]))
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    return generators


def test_states_of_devices_are_exchanged_between_jobs(devices: tuple[StandIn, StandIn]) -> None:
    begin = random_generators.take_cuda()
    mine, theirs = random_generators._copy_cuda(begin), random_generators._copy_cuda(begin)
    random_generators.put_cuda(mine)
    captured = devices[1].state  # as a captured graph does
    devices[0].manual_seed(100)
    assert [device.draw() for device in devices] == [101, 3]
    mine = random_generators.take_cuda()
    random_generators.put_cuda(theirs)
    assert [device.draw() for device in devices] == [2, 3]
    theirs = random_generators.take_cuda()
    random_generators.put_cuda(mine)
    assert devices[1].state is captured
    assert [device.draw() for device in devices] == [102, 4]
    random_generators.put_cuda(begin)
    assert [device.draw() for device in devices] == [2, 3]


def test_seeds_that_waited_take_effect_once_another_job_has_begun_with_the_device(
    devices: tuple[StandIn, StandIn],
) -> None:
    other = random_generators.take_cuda()  # of the job that began with it
    seeds = ("seeds", (None, None, [None, (lambda: [device.manual_seed(7) for device in devices], [])]))
    random_generators.put_cuda(seeds)
    assert [device.draw() for device in devices] == [8, 8]
    random_generators.put_cuda(other)
    assert [device.draw() for device in devices] == [2, 3]
    random_generators.put_cuda(("seeds", (None, None, [])))  # a job that never seeded
    assert [device.draw() for device in devices] == [-999, -999]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_generators() -> None:
    def alone(number: int) -> list[float]:
        torch.cuda.manual_seed_all(number)
        return [torch.randn((), device="cuda").item() for _ in range(4)]

    expected = {number: alone(number) for number in (1, 2)}
    drawn: dict[int, list[float]] = {1: [], 2: []}

    def job(number: int) -> Job:
        torch.cuda.manual_seed_all(number)
        for _ in range(4):
            drawn[number].append(torch.randn((), device="cuda").item())
            yield

    alternate(job(1), job(2))
    assert drawn == expected
