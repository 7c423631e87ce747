"""Synchronize by aggregation: gradients go to one worker, which sums them and sends the sums back.

The other way to compute what an all-reduce computes (``--sync aggregate``, ADR 0009). A bucket is cut into chunks. A
chunk's aggregator takes in what each worker sends and adds it up *by worker number*: ``((g0 + g1) + g2) + ...``. At
two workers that is bit for bit what gloo's all-reduce gives, because addition commutes; beyond, the last bits differ
from those of a ring, which adds in another order for each part of a bucket. While a chunk's sums come back, the next
chunks go out: links carry both ways at once.

Aggregators are all workers in turn, balanced by bytes; or those that the user names; or one worker that does nothing
else (`serve`). Which one it is follows from what was sent before, so all workers choose alike.

Nothing here runs on the main thread but the choice of the aggregator: each lane has a thread of its own, which sends,
receives and adds, one bucket after the other. All workers launch a lane's buckets in the same order, so the bucket
at the head of a lane is at the head on every worker, or will be without any of them waiting for another lane: nobody
waits for ever.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Protocol, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from motet.errors import UnsupportedError, UsageError

_TIMEOUT = timedelta(days=7)  # the job's own wait is sliced and watched; this one only must not come first
_POLL_SECONDS = 0.02
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.int64)
_CHUNK_BYTES = 1 << 20
_NUM_AHEAD = 4  # so many chunks may arrive while one is added
_MOST_SIZES = 32
_UP, _DOWN, _HEAD = 0, 1, 2  # tags; messages between two workers with the same tag keep their order
_END = -1
_OPEN, _OVER = "open", "over"

Future = torch.futures.Future[Tensor]


class Group(Protocol):
    """What is needed of a process group: messages from one worker to another."""

    def send(self, tensors: list[Tensor], dst: int, tag: int, /) -> dist.Work:
        """Send to worker ``dst``; does not block."""

    def recv(self, tensors: list[Tensor], src: int, tag: int, /) -> dist.Work:
        """Receive from worker ``src``; does not block."""


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
        return lambda bucket: lane.send(bucket, [self.choose(_num_bytes(chunk)) for chunk in chunks_of(bucket)])

    def choose(self, num_bytes: int) -> int:
        """Return the aggregator of the next chunk: the one with the fewest bytes so far."""
        aggregator = min(self._bytes, key=lambda worker: (self._bytes[worker], worker))
        self._bytes[aggregator] += num_bytes
        return aggregator

    def close(self) -> None:
        """End the threads, once nothing travels any more."""
        for lane in self._lanes.values():
            lane.close()


class ServedAggregation(Aggregation):
    """Aggregation by one more process, which only aggregates: see `serve`. ``store`` is one that it reads as well."""

    def __init__(self, worker: int, num_workers: int, store: Store) -> None:
        super().__init__(worker, num_workers)
        self._store = store

    def lane(self, group: dist.ProcessGroup) -> Callable[[Tensor], Future]:
        """Return what sends a bucket and gives a future of the synchronized one. Collective: new lanes are joined."""
        if group not in self._lanes:
            number = len(self._lanes)
            if self._worker == 0:
                self._store.set(_key(number), _OPEN)
            served = _served_group(self._store, number, self._worker, self._num_workers)
            self._lanes[group] = Lane(served, self._worker, self._num_workers, server=self._num_workers)
        lane = self._lanes[group]
        return lambda bucket: lane.send(bucket, [self._num_workers] * len(chunks_of(bucket)))

    def close(self) -> None:
        """End the threads, and the process that aggregates."""
        if self._worker == 0:
            self._store.set(_key(len(self._lanes)), _OVER)
        super().close()


def set_one_aside() -> tuple[Store, bool]:
    """Take the last worker of torchrun's environment out of it; return a store for all, and whether this is the one.

    On the others the environment is afterwards that of a gang with one worker fewer, before anything has read it.
    """
    rank, num_workers = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if num_workers < 2:
        raise UsageError("--aggregators dedicated takes a worker that does nothing else: start two workers at least")
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, _, _ = next(rendezvous("env://", rank, num_workers))
    if rank < num_workers - 1:
        os.environ["WORLD_SIZE"] = str(num_workers - 1)
        machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
        if int(os.environ.get("GROUP_RANK", "0")) == machines - 1:
            os.environ["LOCAL_WORLD_SIZE"] = str(int(os.environ.get("LOCAL_WORLD_SIZE", num_workers)) - 1)
    return PrefixStore(f"motet/aggregate/{attempt}", store), rank == num_workers - 1


def serve(store: Store, num_workers: int) -> bool:
    """Aggregate for workers that compute, as the one process beside them; blocks until their run is over.

    Returns whether it ended in good order, and not because a worker was lost.
    """
    lanes: list[_ServedLane] = []
    while not any(lane.lost for lane in lanes):
        if not store.check([_key(len(lanes))]):
            time.sleep(_POLL_SECONDS)
            continue
        if store.get(_key(len(lanes))).decode() == _OVER:
            for lane in lanes:
                lane.join()
            return not any(lane.lost for lane in lanes)
        lanes.append(_ServedLane(_served_group(store, len(lanes), num_workers, num_workers), num_workers))
    return False


class _ServedLane(threading.Thread):
    """Sums the buckets of one lane until its end is told."""

    def __init__(self, group: Group, num_workers: int) -> None:
        super().__init__(name="motet-aggregation", daemon=True)
        self.lost = False
        self._group, self._workers = group, range(num_workers)
        self.start()

    @torch.no_grad()
    def run(self) -> None:
        """Take in, add, and give back."""
        head = torch.empty(2, dtype=torch.int64)
        buckets: dict[tuple[int, int], Tensor] = {}
        adder = _Adder(self._group, self._workers, None)
        try:
            while True:
                self._group.recv([head], 0, _HEAD).wait()
                size, kind = head.tolist()
                if size == _END:
                    return
                if (size, kind) not in buckets:
                    if len(buckets) >= _MOST_SIZES:
                        buckets.clear()
                    buckets[size, kind] = torch.empty(size, dtype=_DTYPES[kind])
                adder.add_up(chunks_of(buckets[size, kind]))
        except RuntimeError:  # a worker is gone: those that compute say so, with the job and the turn
            self.lost = True


def _served_group(store: Store, number: int, worker: int, num_workers: int) -> Group:
    """Return a group of all workers that compute and, behind them, the one that aggregates. Blocks for all."""
    return cast(Group, dist.ProcessGroupGloo(PrefixStore(f"lane/{number}", store), worker, num_workers + 1, _TIMEOUT))


def _key(number: int) -> str:
    return f"lane/{number}/state"


class Lane:
    """One job's buckets on their way through aggregators, in the order of their launch.

    ``server``: the number, in ``group``, of a worker that only aggregates; it has to be told what comes.
    """

    def __init__(self, group: Group, worker: int, num_workers: int, server: int | None = None) -> None:
        self._group, self._worker, self._workers = group, worker, range(num_workers)
        self._server = server
        self._adder = _Adder(group, self._workers, worker)
        self._queue: queue.SimpleQueue[tuple[Tensor, Sequence[int], Future] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="motet-aggregation", daemon=True)
        self._thread.start()

    def send(self, bucket: Tensor, aggregators: Sequence[int]) -> Future:
        """Start to synchronize ``bucket`` in place, each chunk by its aggregator; does not block."""
        if bucket.device.type != "cpu":
            raise UnsupportedError(
                f"--sync aggregate synchronizes gradients in main memory; these are on {bucket.device.type}. "
                "Leave it out: the all-reduce synchronizes them."
            )
        future: Future = torch.futures.Future()
        self._queue.put((bucket, aggregators, future))
        return future

    def close(self) -> None:
        """End the thread, and tell a worker that only aggregates."""
        self._queue.put(None)
        self._thread.join()

    @torch.no_grad()
    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            bucket, aggregators, future = item
            try:
                self._synchronize(bucket.detach(), aggregators)
            except Exception as error:  # the job's wait raises it
                told = error if isinstance(error, RuntimeError) else RuntimeError(repr(error))
                future.set_exception(told)  # type: ignore[arg-type]
            else:
                future.set_result(bucket)
        if self._server is not None and self._worker == 0:
            self._group.send([torch.tensor([_END, 0])], self._server, _HEAD).wait()

    def _synchronize(self, bucket: Tensor, aggregators: Sequence[int]) -> None:
        if self._server is not None and self._worker == 0:
            head = torch.tensor([bucket.numel(), _DTYPES.index(bucket.dtype)])
            self._group.send([head], self._server, _HEAD).wait()
        own: list[Tensor] = []
        travelling: list[dist.Work] = []
        for chunk, aggregator in zip(chunks_of(bucket), aggregators, strict=True):
            if aggregator == self._worker:
                own.append(chunk)
                continue
            travelling.append(self._group.send([chunk], aggregator, _UP))
            # Into the same memory: sums come back only after this worker's gradients have arrived.
            travelling.append(self._group.recv([chunk], aggregator, _DOWN))
        self._adder.add_up(own)
        for work in travelling:
            work.wait()


class _Adder:
    """Takes in chunks from all workers, adds, and sends the sums to all.

    ``worker``: the one that adds, if it has gradients of its own. The room that is needed does not grow with the
    number of workers.
    """

    def __init__(self, group: Group, workers: Sequence[int], worker: int | None) -> None:
        self._group, self._workers, self._worker = group, workers, worker
        self._others = [other for other in workers if other != worker]
        self._rooms: dict[torch.dtype, list[Tensor]] = {}

    def add_up(self, chunks: Sequence[Tensor]) -> None:
        """Sum chunks over all workers, in the workers' order; the sums end in the chunks. Blocks."""
        arriving: list[tuple[dist.Work, Tensor]] = []
        expected = [(chunk, other) for chunk in chunks for other in self._others]

        def expect(number: int) -> None:
            if number < len(expected):
                chunk, other = expected[number]
                room = self._room(chunk, number % _NUM_AHEAD)
                arriving.append((self._group.recv([room], other, _UP), room))

        for number in range(_NUM_AHEAD):
            expect(number)
        number = 0
        sent: list[dist.Work] = []
        for chunk in chunks:
            total: Tensor | None = None
            for worker in self._workers:
                if worker == self._worker:
                    if total is not None:
                        _add(total, chunk, chunk)
                    total = chunk
                    continue
                work, term = arriving[number]
                work.wait()
                if total is None:
                    total = chunk if self._worker is None else self._room(chunk, _NUM_AHEAD)
                    total.copy_(term)
                else:
                    _add(total, term, total)
                expect(number + _NUM_AHEAD)  # where `term` was
                number += 1
            sent += [self._group.send([chunk], other, _DOWN) for other in self._others]
        for work in sent:
            work.wait()

    def _room(self, chunk: Tensor, number: int) -> Tensor:
        rooms = self._rooms.get(chunk.dtype)
        if rooms is None:
            size = _CHUNK_BYTES // chunk.element_size()
            rooms = self._rooms[chunk.dtype] = [torch.empty(size, dtype=chunk.dtype) for _ in range(_NUM_AHEAD + 1)]
        return rooms[number][: chunk.numel()]


def chunks_of(bucket: Tensor) -> Sequence[Tensor]:
    """Return a bucket's chunks, as views."""
    return torch.split(bucket.view(-1), _CHUNK_BYTES // bucket.element_size())


def _num_bytes(chunk: Tensor) -> int:
    return chunk.numel() * chunk.element_size()


def _add(one: Tensor, other: Tensor, out: Tensor) -> None:
    """Add on this thread alone: torch would start a pool of threads for this one, which then spins."""
    if one.dtype == torch.bfloat16:  # unknown to NumPy
        torch.add(one, other, out=out)
    else:
        np.add(one.numpy(), other.numpy(), out=out.numpy())


def _at_once(bucket: Tensor) -> Future:
    future: Future = torch.futures.Future()
    future.set_result(bucket)
    return future
