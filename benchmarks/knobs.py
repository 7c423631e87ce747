"""What Motet decides for its users, made adjustable, so that the decisions can be measured. See `what_it_takes.py`."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from motet.gradients import send_queue
from motet.workers import agreement
from motet.workers import group as workers

_numbers = itertools.count()


@contextlib.contextmanager
def turned(knobs: Mapping[str, Any]) -> Iterator[None]:
    """Run Motet with other decisions inside the block: ``lanes``, ``gloo_threads``, ``agree_every``, ``window``,
    ``switch_seconds``."""
    with contextlib.ExitStack() as stack:
        for name, value in knobs.items():
            stack.enter_context(
                {
                    "lanes": _lanes,
                    "gloo_threads": _gloo_threads,
                    "agree_every": _agree_every,
                    "window": _window,
                    "switch_seconds": _switch_seconds,
                }[name](value)
            )
        yield


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def _lanes(number: int) -> Iterator[None]:
    """Share so many lanes among all jobs, by turns."""
    acquire_lane = workers.Workers.acquire_lane
    lanes: list[dist.ProcessGroup] = []
    taken = itertools.count()

    def take(self: workers.Workers) -> dist.ProcessGroup:
        if len(lanes) < number:
            lanes.append(acquire_lane(self))
        return lanes[next(taken) % number]

    with _replaced(workers.Workers, "acquire_lane", take), _replaced(workers.Workers, "release_lane", lambda *_: None):
        yield


@contextlib.contextmanager
def _gloo_threads(number: int) -> Iterator[None]:
    """Give every lane so many threads; torch gives two, and offers no way to say otherwise."""

    def new_group(_: str | None) -> dist.ProcessGroup:
        store = PrefixStore(f"bench/{next(_numbers)}", dist.distributed_c10d._get_default_store())
        options = dist.ProcessGroupGloo._Options()
        interface = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
        options._devices = [dist.ProcessGroupGloo.create_device(interface=interface)]
        options._threads, options._timeout = number, timedelta(hours=1)
        rank, size = dist.get_rank(), dist.get_world_size()
        group = dist.ProcessGroup(store, rank, size)
        backend = dist.ProcessGroupGloo(store, rank, size, options)
        group._register_backend(torch.device("cpu"), dist.ProcessGroup.BackendType.GLOO, backend)
        group._set_default_backend(dist.ProcessGroup.BackendType.GLOO)
        _own.append(group)
        return group

    def leave(self: workers.Workers, *, orderly: bool = True) -> None:
        """Leave torch to free the groups that it does not know."""
        self._lanes = [lane for lane in self._lanes if not _is_own(lane)]
        if self._control is not None and _is_own(self._control):
            self._control = None
        original(self, orderly=orderly)

    original = workers.Workers.leave
    with _replaced(workers, "_new_group", new_group), _replaced(workers.Workers, "leave", leave):
        yield
    _own.clear()


def _is_own(group: dist.ProcessGroup) -> bool:
    return any(group is own for own in _own)


_own: list[dist.ProcessGroup] = []


def _agree_every(seconds: float) -> contextlib.AbstractContextManager[None]:
    return _replaced(agreement, "INTERVAL_SECONDS", seconds)


def _window(num_bytes: int) -> contextlib.AbstractContextManager[None]:
    return _replaced(send_queue, "WINDOW_BYTES", num_bytes)


def _switch_seconds(seconds: float) -> contextlib.AbstractContextManager[None]:
    return _replaced(send_queue, "SWITCH_SECONDS", seconds)
