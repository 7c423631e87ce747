"""Aggregation by one more worker, which computes nothing and only aggregates."""

from __future__ import annotations

import os
import threading
import time
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from motet.errors import UsageError
from motet.gradients.aggregation.lane import DTYPES, END, HEAD, Adder, Group, chunks_of

_TIMEOUT = timedelta(days=7)  # the job's own wait is sliced and watched; this one only must not come first
_POLL_SECONDS = 0.02
MOST_SIZES = 32
OPEN, OVER = "open", "over"


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
        if not store.check([state_key(len(lanes))]):
            time.sleep(_POLL_SECONDS)
            continue
        if store.get(state_key(len(lanes))).decode() == OVER:
            for lane in lanes:
                lane.join()
            return not any(lane.lost for lane in lanes)
        lanes.append(_ServedLane(served_group(store, len(lanes), num_workers, num_workers), num_workers))
    return False


class _ServedLane(threading.Thread):
    """Sums the buckets of one lane until it is closed."""

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
        adder = Adder(self._group, self._workers, None)
        try:
            while True:
                self._group.recv([head], 0, HEAD).wait()
                size, kind = head.tolist()
                if size == END:
                    return
                if (size, kind) not in buckets:
                    if len(buckets) >= MOST_SIZES:
                        buckets.clear()
                    buckets[size, kind] = torch.empty(size, dtype=DTYPES[kind])
                adder.add_up(chunks_of(buckets[size, kind]))
        except RuntimeError:  # a worker is gone: those that compute say so, with the job and the turn
            self.lost = True


def served_group(store: Store, number: int, worker: int, num_workers: int) -> Group:
    """Return a group of all workers that compute and, behind them, the one that aggregates. Blocks for all."""
    return cast(Group, dist.ProcessGroupGloo(PrefixStore(f"lane/{number}", store), worker, num_workers + 1, _TIMEOUT))


def state_key(number: int) -> str:
    return f"lane/{number}/state"
