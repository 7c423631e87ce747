"""A position in the data: after resuming, the same batches and the same random numbers as without a stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.checkpoints.test_payload import through_a_file
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from motet.checkpoints import DataPosition, random_generators, restore_random_generators, snapshot
from motet.errors import CheckpointError, UnsupportedError

NUM_EPOCHS = 3
Log = list[tuple[int, list[float]]]


@pytest.fixture(autouse=True)
def generators_as_before() -> Iterator[None]:
    saved = random_generators()
    yield
    restore_random_generators(saved)


class Samples(Dataset[torch.Tensor]):
    """Twenty numbers; ``augment``: with noise from each of the global generators; ``seen``: what was loaded."""

    def __init__(self, augment: bool = False) -> None:
        self.augment = augment
        self.seen: list[int] = []

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        self.seen.append(index)
        noise = torch.rand(1) + np.random.rand() + random.random() if self.augment else torch.zeros(1)
        return torch.tensor([float(index)]) + noise.float()


class Eager(Sampler[list[int]]):
    """A user's own batch sampler, which draws as soon as it is asked for its iterator."""

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(20).tolist()
        random.shuffle(order)
        return iter([order[at : at + 4] for at in range(0, 20, 4)])


class ByEpoch(SequentialSampler):
    """A sampler that starts at the epoch that it is told."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter([(at + self.epoch) % 20 for at in range(20)])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def loaders() -> dict[str, Callable[[], DataLoader[Any]]]:
    data = Samples

    def noisy() -> Samples:
        return Samples(augment=True)

    return {
        "in order": lambda: DataLoader(noisy(), 3),
        "shuffled": lambda: DataLoader(noisy(), 3, shuffle=True),
        "the last one dropped": lambda: DataLoader(noisy(), 3, shuffle=True, drop_last=True),
        "own generator": lambda: DataLoader(noisy(), 3, shuffle=True, generator=generator()),
        "sampler's generator": lambda: DataLoader(noisy(), 3, sampler=RandomSampler(range(20), generator=generator())),
        "replacement": lambda: DataLoader(
            noisy(), 9, sampler=RandomSampler(range(20), replacement=True, num_samples=90, generator=generator())
        ),
        "twice the data": lambda: DataLoader(
            noisy(), 9, sampler=RandomSampler(range(20), num_samples=45, generator=generator())
        ),
        "weighted": lambda: DataLoader(noisy(), 3, sampler=WeightedRandomSampler([1.0, 2.0] * 10, 20)),
        "subset": lambda: DataLoader(noisy(), 3, sampler=SubsetRandomSampler(range(4, 18))),
        "no batches": lambda: DataLoader(noisy(), None, shuffle=True),
        "no batches, of a few": lambda: DataLoader(noisy(), None, sampler=SubsetRandomSampler(range(5))),
        "own batch sampler": lambda: DataLoader(noisy(), batch_sampler=Eager()),
        "batch sampler": lambda: DataLoader(
            noisy(), batch_sampler=BatchSampler(RandomSampler(range(20), generator=generator()), 3, False)
        ),
        "distributed": lambda: DataLoader(
            noisy(), 3, sampler=DistributedSampler(Samples(), num_replicas=2, rank=1, seed=3)
        ),
        "by epoch": lambda: DataLoader(noisy(), 3, sampler=ByEpoch(range(20))),
        "workers": lambda: DataLoader(data(), 3, shuffle=True, num_workers=2),
        "workers, own generator": lambda: DataLoader(data(), 3, shuffle=True, num_workers=2, generator=generator()),
        "workers that stay": lambda: DataLoader(data(), 3, shuffle=True, num_workers=1, persistent_workers=True),
        "workers that stay, own generator": lambda: DataLoader(
            data(), 3, shuffle=True, num_workers=1, persistent_workers=True, generator=generator()
        ),
    }


def seed(value: int) -> None:
    torch.manual_seed(value)
    np.random.seed(value)
    random.seed(value)


def step(log: Log, epoch: int, batch: torch.Tensor) -> None:
    """Stand for a training step: draw from each generator, as dropout would."""
    drawn = [float(torch.nn.functional.dropout(torch.ones(8)).sum()), float(torch.rand(1)), np.random.normal()]
    log.append((epoch, [*batch.flatten().tolist(), *drawn, random.gauss(0, 1)]))


def plain_loop(loader: DataLoader[Any]) -> Log:
    """Run all epochs as without Motet."""
    log: Log = []
    for epoch in range(NUM_EPOCHS):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        for batch in loader:
            step(log, epoch, batch)
        log.append((epoch, torch.rand(2).tolist()))
    return log


def loop(data: DataPosition[Any], log: Log, stop_after: int | None = None, save_at_end: bool = False) -> Any:
    """Run the epochs that remain. At ``stop_after`` entries of the log in all, return what a checkpoint would hold."""
    for epoch in data.epochs(NUM_EPOCHS):
        for batch in data:
            step(log, epoch, batch)
            if len(log) == stop_after:
                return through_a_file(snapshot({"data": data.state_dict(), "random": random_generators()}))
        log.append((epoch, torch.rand(2).tolist()))
        if len(log) == stop_after:
            return through_a_file(snapshot({"data": data.state_dict(), "random": random_generators()}))
    return None


def resumed(make: Callable[[], DataLoader[Any]], saved: Any, unlike: int) -> DataPosition[Any]:
    """Return what a new process would make of a checkpoint; its generators are elsewhere at first."""
    seed(unlike)
    data = DataPosition(make())
    torch.rand(unlike % 7)
    data.load_state_dict(saved["data"])
    restore_random_generators(saved["random"])
    return data


@pytest.mark.parametrize("kind", loaders())
def test_goes_on_as_if_it_had_not_stopped(kind: str) -> None:
    make = loaders()[kind]
    seed(1)
    expected = plain_loop(make())
    seed(1)
    whole: Log = []
    loop(DataPosition(make()), whole)
    assert whole == expected, "watching the position changes nothing"
    # With processes to be started, a few: within an epoch, after its last batch, after its end.
    stops = [4, 15, 16] if "workers" in kind else range(1, len(expected) + 1)
    for stop in stops:
        seed(1)
        log: Log = []
        saved = loop(DataPosition(make()), log, stop)
        assert saved is not None
        loop(resumed(make, saved, unlike=stop), log)
        assert log == expected, f"stopped after {stop}"


@pytest.mark.parametrize("kind", loaders())
def test_may_stop_again_and_again(kind: str) -> None:
    make = loaders()[kind]
    seed(1)
    expected = plain_loop(make())
    seed(1)
    log: Log = []
    data = DataPosition(make())
    stops = [2, 3, len(expected) // 2, len(expected) // 2 + 1, len(expected) - 2]
    for stop in stops[1::2] if "workers" in kind else stops:
        data = resumed(make, loop(data, log, stop), unlike=stop)
    loop(data, log)
    assert log == expected


def test_used_batches_are_not_loaded_again() -> None:
    seed(1)
    log: Log = []
    saved = loop(DataPosition(DataLoader(Samples(), 3, shuffle=True)), log, 4)
    samples = Samples()
    data = resumed(lambda: DataLoader(samples, 3, shuffle=True), saved, unlike=2)
    next(iter(data))
    assert len(samples.seen) == 3
    assert data.batch == 5


def test_two_positions_side_by_side() -> None:
    def make() -> tuple[DataLoader[Any], DataLoader[Any]]:
        return DataLoader(Samples(augment=True), 3, shuffle=True), DataLoader(Samples(augment=True), 5, shuffle=True)

    def run(pair: Any, log: Log, stop_after: int | None = None) -> Any:
        for one, other in zip(*pair, strict=False):
            step(log, 0, torch.cat([one, other]))
            if len(log) == stop_after:
                return through_a_file(
                    snapshot({"data": [each.state_dict() for each in pair], "random": random_generators()})
                )
        return None

    seed(1)
    expected: Log = []
    run(make(), expected)
    seed(1)
    log: Log = []
    saved = run([DataPosition(each) for each in make()], log, 2)
    seed(3)
    pair = [DataPosition(each) for each in make()]
    for each, state in zip(pair, saved["data"], strict=True):
        each.load_state_dict(state)
    restore_random_generators(saved["random"])
    run(pair, log)
    assert log == expected


def test_random_numbers_drawn_before_the_first_batch_do_not_count_twice() -> None:
    """A loop that draws at the beginning of each epoch draws again when it is resumed within one."""

    def run(data: Any, log: Log, stop_after: int | None = None) -> Any:
        torch.rand(3)
        for batch in data:
            step(log, 0, batch)
            if len(log) == stop_after:
                return through_a_file(snapshot({"data": data.state_dict(), "random": random_generators()}))
        return None

    make = loaders()["shuffled"]
    seed(1)
    expected: Log = []
    run(make(), expected)
    seed(1)
    log: Log = []
    run(resumed(make, run(DataPosition(make()), log, 3), unlike=2), log)
    assert log == expected


@pytest.mark.parametrize("kind", ["shuffled", "own batch sampler", "own generator"])
def test_an_epoch_that_has_begun_and_given_nothing_yet(kind: str) -> None:
    make = loaders()[kind]
    seed(1)
    expected = list(make())
    seed(1)
    data = DataPosition(make())
    iter(data)
    saved = through_a_file(snapshot({"data": data.state_dict(), "random": random_generators()}))
    assert torch.equal(torch.cat(list(resumed(make, saved, unlike=2))), torch.cat(expected))


def test_counts_epochs_that_were_left_early() -> None:
    data = DataPosition(DataLoader(Samples(), 3))
    assert len(data) == 7
    for epoch in data.epochs(3):
        for _ in data:
            if data.batch == 2:
                break
        assert (data.epoch, data.batch) == (epoch, 2)
    assert (data.epoch, data.batch) == (3, 0)
    for _ in data:
        break
    assert (data.epoch, data.batch) == (3, 1)
    for _ in data:
        pass
    assert (data.epoch, data.batch) == (5, 0)


def test_epochs_end_even_if_no_one_iterates() -> None:
    assert list(DataPosition(DataLoader(Samples(), 3)).epochs(3)) == [0, 1, 2]


def test_the_loader_itself_still_iterates() -> None:
    loader = DataLoader(Samples(), 6)
    data = DataPosition(loader)
    next(iter(data))
    assert len(list(loader)) == len(loader) == 4
    assert data.batch == 1
    assert loader.batch_sampler is not None
    assert loader.batch_sampler.batch_size == 6  # type: ignore[attr-defined]


@pytest.mark.parametrize(("before", "after", "batch"), [(2, 4, 2), (4, 2, 8), (2, 3, 2)])
def test_another_number_of_replicas_takes_up_where_all_data_was_seen(before: int, after: int, batch: int) -> None:
    def make(num_replicas: int) -> DataPosition[Any]:
        samples = range(100)
        sampler: DistributedSampler[Any] = DistributedSampler(samples, num_replicas, 0, seed=1)  # type: ignore[arg-type]
        return DataPosition(DataLoader(samples, 1, sampler=sampler))  # type: ignore[arg-type]

    data = make(before)
    for _ in data.epochs(1):
        for _ in data:
            if data.batch == 4:
                break
        state = data.state_dict()
        break
    other = make(after)
    other.load_state_dict(state)
    first = next(iter(other))
    assert other.batch == batch + 1
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    assert first.item() == order[batch * after]


def test_data_that_has_become_shorter_is_reported() -> None:
    seed(1)
    saved = loop(DataPosition(DataLoader(Samples(), 2)), [], 8)
    data = DataPosition(DataLoader(Samples(), 4))
    data.load_state_dict(saved["data"])
    with pytest.raises(CheckpointError, match="at batch 8 of an epoch, but the epoch has only 5"):
        next(iter(data))


def test_generators_that_came_or_went_are_reported() -> None:
    saved = loop(DataPosition(DataLoader(Samples(), 2)), [], 2)
    data = DataPosition(loaders()["own generator"]())
    with pytest.raises(CheckpointError, match="had 0 random generators of their own, now 1"):
        data.load_state_dict(saved["data"])


@pytest.mark.parametrize("state", [{}, {"epoch": None}, {"epoch": 0, "batch": "x"}, 3])
def test_other_data_is_refused(state: Any) -> None:
    with pytest.raises(CheckpointError, match="not the state of a DataPosition"):
        DataPosition(DataLoader(Samples(), 2)).load_state_dict(state)


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(3))


def test_a_stream_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="StatefulDataLoader"):
        DataPosition(DataLoader(Stream()))


class Drawing(Sampler[int]):
    """A sampler that draws each index when it is asked for it."""

    def __init__(self, draw: Callable[[], int], every: int) -> None:
        self.draw = draw
        self.every = every

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        for index in range(20):
            yield self.draw() if index % self.every == 0 else index


@pytest.mark.parametrize(
    "draw",
    [
        lambda: int(torch.randint(20, ()).item()),
        lambda: int(np.random.randint(20)),
        lambda: random.randrange(20),
    ],
    ids=["torch", "numpy", "random"],
)
def test_a_sampler_that_draws_in_between_is_refused(draw: Callable[[], int]) -> None:
    data = DataPosition(DataLoader(Samples(), 2, sampler=Drawing(draw, every=1)))
    with pytest.raises(UnsupportedError, match="generator of its own"):
        list(data)


def test_a_sampler_that_draws_seldom_is_refused_when_it_is_resumed() -> None:
    def make() -> DataLoader[Any]:
        return DataLoader(Samples(), 2, sampler=Drawing(lambda: int(torch.randint(20, ()).item()), every=6))

    saved = loop(DataPosition(make()), [], 6)
    with pytest.raises(UnsupportedError, match="generator of its own"):
        next(iter(resumed(make, saved, unlike=1)))
