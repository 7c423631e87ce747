"""Who aggregates the next chunk: all workers in turn, some of them, or one that does nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store

from motet.errors import UsageError
from motet.gradients.aggregation.lane import Future, Lane, chunks_of, num_bytes_of
from motet.gradients.aggregation.server import OPEN, OVER, served_group, state_key


class Aggregation:
    """Who aggregates, in one run. ``aggregators``: the workers that do, None for all."""

    def __init__(self, worker: int, num_workers: int, aggregators: Sequence[int] | None = None) -> None:
        chosen = sorted(set(range(num_workers) if aggregators is None else aggregators))
        if not chosen or chosen[0] < 0 or chosen[-1] >= num_workers:
            raise UsageError(
                f"aggregators must be workers of this run, 0 to {num_workers - 1}; "
                f"got {','.join(map(str, aggregators or ())) or 'none'}"
            )
        self._worker, self._num_workers = worker, num_workers
        self._bytes = dict.fromkeys(chosen, 0)
        self._lanes: dict[dist.ProcessGroup, Lane] = {}

    def lane(self, group: dist.ProcessGroup) -> Callable[[Tensor], Future]:
        """Return what sends a bucket over ``group`` and gives a future of the synchronized one."""
        if self._num_workers == 1:
            return _at_once
        if group not in self._lanes:
            self._lanes[group] = Lane(group, self._worker, self._num_workers)
        lane = self._lanes[group]
        return lambda bucket: lane.send(bucket, [self.choose(num_bytes_of(chunk)) for chunk in chunks_of(bucket)])

    def choose(self, num_bytes: int) -> int:
        """Return the aggregator of the next chunk: the one with the fewest bytes so far."""
        aggregator = min(self._bytes, key=lambda worker: (self._bytes[worker], worker))
        self._bytes[aggregator] += num_bytes
        return aggregator

    def close(self) -> None:
        """End the threads, once nothing is in flight any more."""
        for lane in self._lanes.values():
            lane.close()


class ServedAggregation(Aggregation):
    """Aggregation by one more process, which only aggregates (`server`). ``store`` is one that it reads as well."""

    def __init__(self, worker: int, num_workers: int, store: Store) -> None:
        super().__init__(worker, num_workers)
        self._store = store

    def lane(self, group: dist.ProcessGroup) -> Callable[[Tensor], Future]:
        """Return what sends a bucket and gives a future of the synchronized one. Collective: new lanes are joined."""
        if group not in self._lanes:
            number = len(self._lanes)
            if self._worker == 0:
                self._store.set(state_key(number), OPEN)
            served = served_group(self._store, number, self._worker, self._num_workers)
            self._lanes[group] = Lane(served, self._worker, self._num_workers, server=self._num_workers)
        lane = self._lanes[group]
        return lambda bucket: lane.send(bucket, [self._num_workers] * len(chunks_of(bucket)))

    def close(self) -> None:
        """End the threads, and the process that aggregates."""
        if self._worker == 0:
            self._store.set(state_key(len(self._lanes)), OVER)
        super().close()


def _at_once(bucket: Tensor) -> Future:
    future: Future = torch.futures.Future()
    future.set_result(bucket)
    return future
