"""A bucket's way through aggregators: cut into chunks, sent, summed by worker number, sent back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from motet.errors import UnsupportedError

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.int64)
_CHUNK_BYTES = 1 << 20
_NUM_AHEAD = 4  # so many chunks may arrive while one is added
UP, DOWN, HEAD = 0, 1, 2  # tags; messages between two workers with the same tag keep their order
END = -1

Future = torch.futures.Future[Tensor]


class Group(Protocol):
    """What is needed of a process group: messages from one worker to another."""

    def send(self, tensors: list[Tensor], dst: int, tag: int, /) -> dist.Work:
        """Send to worker ``dst``; does not block."""

    def recv(self, tensors: list[Tensor], src: int, tag: int, /) -> dist.Work:
        """Receive from worker ``src``; does not block."""


class Lane:
    """One job's buckets on their way through aggregators, in the order of their launch.

    ``server``: the number, in ``group``, of a worker that only aggregates; it has to be sent what comes.
    """

    def __init__(self, group: Group, worker: int, num_workers: int, server: int | None = None) -> None:
        self._group, self._worker, self._workers = group, worker, range(num_workers)
        self._server = server
        self._adder = Adder(group, self._workers, worker)
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
        """End the thread, and a worker that only aggregates."""
        self._queue.put(None)
        self._thread.join()

    @torch.no_grad()
    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            bucket, aggregators, future = item
            try:
                self._synchronize(bucket.detach(), aggregators)
            except Exception as error:  # the job's wait raises it
                failure = error if isinstance(error, RuntimeError) else RuntimeError(repr(error))
                future.set_exception(failure)  # type: ignore[arg-type]
            else:
                future.set_result(bucket)
        if self._server is not None and self._worker == 0:
            self._group.send([torch.tensor([END, 0])], self._server, HEAD).wait()

    def _synchronize(self, bucket: Tensor, aggregators: Sequence[int]) -> None:
        if self._server is not None and self._worker == 0:
            head = torch.tensor([bucket.numel(), DTYPES.index(bucket.dtype)])
            self._group.send([head], self._server, HEAD).wait()
        own: list[Tensor] = []
        in_flight: list[dist.Work] = []
        for chunk, aggregator in zip(chunks_of(bucket), aggregators, strict=True):
            if aggregator == self._worker:
                own.append(chunk)
                continue
            in_flight.append(self._group.send([chunk], aggregator, UP))
            # Into the same memory: sums come back only after this worker's gradients have arrived.
            in_flight.append(self._group.recv([chunk], aggregator, DOWN))
        self._adder.add_up(own)
        for work in in_flight:
            work.wait()


class Adder:
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
                arriving.append((self._group.recv([room], other, UP), room))

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
            sent += [self._group.send([chunk], other, DOWN) for other in self._others]
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


def num_bytes_of(chunk: Tensor) -> int:
    return chunk.numel() * chunk.element_size()


def _add(one: Tensor, other: Tensor, out: Tensor) -> None:
    """Add on this thread alone: torch would start a pool of threads for this one, which then spins."""
    if one.dtype == torch.bfloat16:  # unknown to NumPy
        torch.add(one, other, out=out)
    else:
        np.add(one.numpy(), other.numpy(), out=out.numpy())
