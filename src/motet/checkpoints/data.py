"""Where a loop is in its data, so that it goes on with the very batch that would have come next.

A loader's order of samples follows from the random generators as they were when the epoch began. These are kept; on
resuming, the epoch begins with them again and the batches that were already used are skipped as indices, without
loading them. See ADR 0007 for what is drawn when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from torch.utils.data import DataLoader, IterableDataset

from motet.checkpoints.generators import random_generators, restore_random_generators, same_generators
from motet.errors import CheckpointError, UnsupportedError

Batch = TypeVar("Batch", covariant=True)
States = dict[str, Any]


@dataclass(slots=True)
class _Begin:
    """How an epoch's indices began: all that is random about them."""

    before_iter: States | None = None  # as the sampler was asked for its iterator
    before_first: States | None = None  # as it was asked for its first batch
    sampler_epoch: int | None = None


@dataclass(slots=True)
class _Replay:
    """The epoch that the next iteration takes up: how it began, the batches it has had, the generators now."""

    begin: _Begin
    skip: int
    now: States | None


class DataPosition(Generic[Batch]):
    """A ``DataLoader`` whose position can be saved and restored, to the batch.

    ::

        data = DataPosition(loader)
        for epoch in data.epochs(10):       # sets a DistributedSampler's epoch, goes on where it was
            for batch in data:
                ...

    Batches, and all random numbers drawn in this process afterwards, equal those of the uninterrupted loop, also with
    ``shuffle=True``, generators given to the loader, and worker processes. Not replayed: random numbers that datasets
    draw *in worker processes* (``num_workers > 0``). A generator given to the loader must have no other use.

    Raises `UnsupportedError` for an ``IterableDataset``, whose position no one but itself knows, and in its first
    epoch for a sampler that draws from the global generators while the epoch runs.
    """

    def __init__(self, loader: DataLoader[Batch]) -> None:
        if isinstance(loader.dataset, IterableDataset):
            raise UnsupportedError(
                f"{type(loader.dataset).__name__} is an IterableDataset, whose position a loader does not know: "
                "save its position with a loader that has state_dict() (torchdata's StatefulDataLoader) instead"
            )
        self.loader = loader
        self.epoch = 0
        self.batch = 0
        self._begin = _Begin()
        self._replay: _Replay | None = None
        self._undo_seed = False
        self._undo_to: States | None = None
        self._current: _Epoch[Batch] | None = None
        self._loader_has_begun = False
        self._may_follow = False
        self._checked = False
        self._before_next: Callable[[], None] | None = None
        slot = "batch_sampler" if loader.batch_sampler is not None else "sampler"
        followed = loader.__dict__[slot]
        assert not isinstance(followed, _Followed), "this loader has a DataPosition already"
        self._samplers = [followed, loader.sampler, getattr(followed, "sampler", None)]
        # DataLoader refuses to have its sampler set. A new loader instead would lose the class and persistent workers.
        loader.__dict__[slot] = _Followed(followed, self)

    def call_before_next(self, call: Callable[[], None]) -> Callable[[], None]:
        """For the runtime: have ``call`` be called when the loop asks for a batch; returns what ends that."""
        self._before_next = call

        def undo() -> None:
            self._before_next = None

        return undo

    def __len__(self) -> int:
        return len(self.loader)

    def epochs(self, num_epochs: int) -> Iterator[int]:
        """Yield the epochs that remain of ``num_epochs``, the one that was interrupted first. Iterate once in each."""
        while self.epoch < num_epochs:
            epoch = self.epoch
            self._set_epoch(epoch)
            yield epoch
            if self.epoch == epoch:  # left by break
                self._end_epoch()

    def __iter__(self) -> Iterator[Batch]:
        if self._current is not None:
            self._end_epoch()  # left by break
        replay, self._begin = self._replay, _Begin()
        self._undo_to = self._states() if self._undo_seed else None
        self._may_follow = True
        try:
            iterator = iter(self.loader)
        finally:
            self._may_follow = False
        self._replay = self._undo_to = None
        self._undo_seed = False
        self._loader_has_begun = True
        if replay is not None:
            self.batch = replay.skip
            if replay.now is not None:
                # iter() has drawn the loader's base seed, which belongs to the part of the epoch that is past.
                restore_random_generators(replay.now["shared"])
        self._current = _Epoch(self, iterator)
        return self._current

    def state_dict(self) -> States:
        """Return the position after the last batch that was handed out, as tensors and plain containers."""
        running = self._current is not None
        begin = self._begin
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "num_replicas": self._num_replicas(),
            "loader_has_begun": self._loader_has_begun,
            "running": running,
            "before_iter": begin.before_iter if running else None,
            "before_first": begin.before_first if running else None,
            "sampler_epoch": begin.sampler_epoch if running else None,
            "now": self._states(),
        }

    def load_state_dict(self, state: States) -> None:
        """Go on from ``state`` with the next iteration. Raises `CheckpointError` if it is something else.

        Written with another number of replicas (``DistributedSampler``), the batch is the last one up to which all
        of the data has been seen by some worker; equal batches cannot be had.
        """
        try:
            epoch, batch, running = int(state["epoch"]), int(state["batch"]), bool(state["running"])
            replicas, now = int(state["num_replicas"]), dict(state["now"])
            begin = _Begin(state["before_iter"], state["before_first"], state["sampler_epoch"])
            same = replicas == (here := self._num_replicas())
            if same:
                self._restore_own(now)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"this is not the state of a DataPosition: {type(error).__name__}: {error}"
            ) from error
        self._current = None
        self.epoch = epoch
        self.batch = batch if same else batch * replicas // here
        self._replay = _Replay(begin, self.batch, now if same else None) if running else None
        # Workers that stay draw their seed once in a loader's life, and this loader's life goes on. Within an epoch,
        # ``now`` undoes it.
        self._undo_seed = bool(state.get("loader_has_begun")) and self.loader.persistent_workers and not running

    # Called while the loader asks for indices

    def _follow(self, sampler: Any) -> Iterator[Any]:
        """Return the indices of an epoch. Draws exactly what, and when, the sampler alone would."""
        if not self._may_follow:
            return cast(Iterator[Any], iter(sampler))  # the loader is iterated directly, not through this object
        # A loader with workers asks twice, draws its seed in between, and forgets the first answer.
        replay, begin = self._replay, self._begin
        here = random_generators()
        if self._undo_to is not None:
            self._restore(self._undo_to)
        elif replay is not None and replay.begin.before_iter is not None:
            self._restore(replay.begin.before_iter)
            self._set_epoch(replay.begin.sampler_epoch)
        begin.before_iter = self._states()
        begin.sampler_epoch = next((each.epoch for each in self._samplers if hasattr(each, "set_epoch")), None)
        indices = iter(sampler)
        if replay is not None:
            restore_random_generators(here)
        return self._drawn(indices, begin, replay)

    def _drawn(self, indices: Iterator[Any], begin: _Begin, replay: _Replay | None) -> Iterator[Any]:
        """Yield the indices that remain."""
        if replay is not None and replay.begin.before_first is not None:
            here = random_generators()
            self._restore(replay.begin.before_first)
            begin.before_first = replay.begin.before_first
            self._skip(indices, replay.skip)
            restore_random_generators(here)
        else:
            begin.before_first = self._states()
        yield from indices if self._checked else self._check_second(indices)

    def _skip(self, indices: Iterator[Any], count: int) -> None:
        after_first: States | None = None
        for done in range(count):
            try:
                next(indices)
            except StopIteration:
                raise CheckpointError(
                    f"the checkpoint is at batch {count} of an epoch, but the epoch has only {done} now: "
                    "the data, the batch size or the sampler are not those of the checkpoint"
                ) from None
            after_first = after_first or random_generators()
        if after_first is not None and not same_generators(after_first, random_generators()):
            raise self._unfollowable()

    def _check_second(self, indices: Iterator[Any]) -> Iterator[Any]:
        """Yield ``indices``; raise `UnsupportedError` if the second draws from the global generators."""
        self._checked = True
        for first in indices:
            yield first
            before = random_generators()
            second = list(_at_most_one(indices))
            if not same_generators(before, random_generators()):
                raise self._unfollowable()
            yield from second
            break
        yield from indices

    def _unfollowable(self) -> UnsupportedError:
        return UnsupportedError(
            f"the sampler {type(self._samplers[0]).__name__} draws from the global random generators while the epoch "
            "runs, between what the training draws, so its position cannot be saved: give it a generator of its own"
        )

    # Steps

    def _end_epoch(self) -> None:
        self._current = None
        self.epoch += 1
        self.batch = 0

    def _set_epoch(self, epoch: int | None) -> None:
        for sampler in self._samplers:
            if epoch is not None and hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)

    def _num_replicas(self) -> int:
        return next((each.num_replicas for each in self._samplers if hasattr(each, "num_replicas")), 1)

    def _generators(self) -> list[torch.Generator]:
        """Return the generators that belong to the loader and its samplers, each once, in a fixed order."""
        found: dict[int, torch.Generator] = {}
        for owner in (self.loader, *self._samplers):
            for value in getattr(owner, "__dict__", {}).values():
                if isinstance(value, torch.Generator):
                    found.setdefault(id(value), value)
        default = id(torch.default_generator)
        return [generator for key, generator in found.items() if key != default]

    def _states(self) -> States:
        return {"shared": random_generators(), "own": [generator.get_state() for generator in self._generators()]}

    def _restore(self, states: States) -> None:
        restore_random_generators(states["shared"])
        self._restore_own(states)

    def _restore_own(self, states: States) -> None:
        own, generators = states["own"], self._generators()
        if len(own) != len(generators):
            raise CheckpointError(
                f"the loader and its samplers had {len(own)} random generators of their own, now {len(generators)}"
            )
        for generator, state in zip(generators, own, strict=True):
            generator.set_state(state)


class _Epoch(Generic[Batch]):
    """The batches of one epoch, counted as they are handed out (a loader asks for indices well before that)."""

    def __init__(self, position: DataPosition[Batch], batches: Iterator[Batch]) -> None:
        self._position = position
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        position = self._position
        mine = position._current is self
        if mine and position._before_next is not None:
            position._before_next()
        try:
            batch = next(self._batches)
        except StopIteration:
            if mine:
                position._end_epoch()
            raise
        if mine:
            position.batch += 1
        return batch


class _Followed:
    """Stands in a loader's place for its sampler; in all else it is that sampler."""

    def __init__(self, sampler: Any, position: DataPosition[Any]) -> None:
        self._sampler = sampler
        self._position = position

    def __iter__(self) -> Iterator[Any]:
        return self._position._follow(self._sampler)

    def __len__(self) -> int:
        return len(cast(Sized, self._sampler))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._sampler, name)


def _at_most_one(indices: Iterator[Any]) -> Iterator[Any]:
    for index in indices:
        yield index
        return
