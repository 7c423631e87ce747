"""Where a job begins to wait: torch's and Python's blocking calls, each of which gives the turn away meanwhile.

Patched in a job's own process, for as long as it lives; nothing is ever put back. A wait that is over before it begins
keeps the turn. What waits elsewhere (C++ of a library, a lock, a file system) is not seen here: the worker notices that
the job uses no processor (`motet.processes.unseen`).
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing.process
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives
from torch.distributed.algorithms.join import Join
from torch.multiprocessing.spawn import ProcessContext
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import dataloader

from motet.processes.turns import JobTurns
from motet.same_files import about_to_write

SHORTEST_SLEEP_SECONDS = 0.001
# Where a program waits for what it has started itself, and whether that is over.
LOCAL_WAITS: tuple[tuple[Any, str, Callable[[Any], bool]], ...] = (
    (concurrent.futures.Future, "result", lambda future: bool(future.done())),
    (threading.Thread, "join", lambda thread: not thread.is_alive()),
    (subprocess.Popen, "wait", lambda child: child.poll() is not None),
    (multiprocessing.process.BaseProcess, "join", lambda child: not child.is_alive()),
    (ProcessContext, "join", lambda context: False),
)


def patch(turns: JobTurns) -> None:
    """Have every wait of this process give the turn away."""
    _patch_backward(turns)
    _patch_ddp(turns)
    _patch_join(turns)
    _patch_work(turns)
    for name in ("init_process_group", "new_group", "destroy_process_group", "monitored_barrier"):
        _patch(dist, name, turns)
        _patch(dist.distributed_c10d, name, turns)
    _patch(dist, "_broadcast_coalesced", turns)
    _patch_wait_tensor(turns)
    _patch_loader(turns)
    for where, name, over in LOCAL_WAITS:
        _patch(where, name, turns, over)
    _patch_queue(turns)
    _patch_sleep(turns)
    _patch_save()


def _patch(where: Any, name: str, turns: JobTurns, over: Callable[[Any], bool] | None = None) -> None:
    whole: Callable[..., Any] = getattr(where, name)

    @functools.wraps(whole)
    def waits(*args: Any, **kwargs: Any) -> Any:
        if not turns.can_wait or (over is not None and over(args[0])):
            return whole(*args, **kwargs)
        with turns.away():
            return whole(*args, **kwargs)

    setattr(where, name, waits)


def _patch_backward(turns: JobTurns) -> None:
    whole = torch.autograd.backward

    @torch._dynamo.disable  # type: ignore[untyped-decorator]
    @functools.wraps(whole)
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        return turns.backward(whole, tensors, args, kwargs)

    torch.autograd.backward = backward


def _patch_ddp(turns: JobTurns) -> None:
    """A model in DDP is built together with all workers; its reducer hears of each forward that is synchronized."""
    build: Callable[..., None] = DistributedDataParallel.__init__

    @functools.wraps(build)
    def init(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> None:
        with turns.away():
            build(self, *args, **kwargs)
        turns.built(self)

    reducer = torch._C._distributed_c10d.Reducer
    prepare: Callable[..., None] = reducer.prepare_for_backward

    @torch._dynamo.disable  # type: ignore[untyped-decorator]
    @functools.wraps(prepare)
    def prepared(self: Any, *args: Any, **kwargs: Any) -> None:
        turns.prepared(self)
        prepare(self, *args, **kwargs)

    DistributedDataParallel.__init__ = init  # type: ignore[method-assign]
    reducer.prepare_for_backward = prepared  # type: ignore[method-assign]


def _patch_join(turns: JobTurns) -> None:
    """Inside of `Join`, workers take different numbers of steps."""
    enter: Callable[..., Any] = Join.__enter__
    leave: Callable[..., Any] = Join.__exit__

    @functools.wraps(enter)
    def begins(self: Join) -> Any:
        turns.uneven += 1
        return enter(self)

    @functools.wraps(leave)
    def ends(self: Join, *error: Any) -> Any:
        try:
            return leave(self, *error)
        finally:
            turns.uneven -= 1

    Join.__enter__ = begins  # type: ignore[method-assign]
    Join.__exit__ = ends  # type: ignore[method-assign]


def _patch_work(turns: JobTurns) -> None:
    """`Work.wait`, by which all collectives of torch's Python side wait, blocking ones as well."""
    work = torch._C._distributed_c10d.Work
    whole: Callable[..., Any] = work.wait

    @functools.wraps(whole)
    def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
        return turns.wait_collective(lambda: whole(self, *args, **kwargs), self.is_completed)

    work.wait = wait  # type: ignore[method-assign]


def _patch_wait_tensor(turns: JobTurns) -> None:
    whole: Callable[[torch.Tensor], torch.Tensor] = _functional_collectives.wait_tensor

    @functools.wraps(whole)
    def wait_tensor(tensor: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_compiling():
            return whole(tensor)
        return turns.wait_collective(lambda: whole(tensor), lambda: False)  # type: ignore[no-any-return]

    _functional_collectives.wait_tensor = wait_tensor


def _patch_loader(turns: JobTurns) -> None:
    """A DataLoader with workers waits for its next batch."""
    loader: Any = dataloader._MultiProcessingDataLoaderIter
    whole: Callable[..., Any] = loader._try_get_data

    @functools.wraps(whole)
    def get(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not turns.can_wait:
            return whole(self, *args, **kwargs)
        found = whole(self, 0.0)
        if found[0]:
            return found
        with turns.away():
            return whole(self, *args, **kwargs)

    loader._try_get_data = get


def _patch_save() -> None:
    """`torch.save` writes past Python, so that no event tells of the file."""
    whole: Callable[..., None] = torch.save

    @functools.wraps(whole)
    def save(obj: object, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, (str, os.PathLike)):
            about_to_write(f)
        whole(obj, f, *args, **kwargs)

    torch.save = save


def _patch_queue(turns: JobTurns) -> None:
    """A thread of the program's fills a queue: batches, mostly."""
    whole: Callable[..., Any] = queue.Queue.get

    @functools.wraps(whole)
    def get(self: queue.Queue[Any], *args: Any, **kwargs: Any) -> Any:
        blocks = args[0] if args else kwargs.get("block", True)
        if not turns.can_wait or not blocks or self.qsize():
            return whole(self, *args, **kwargs)
        with turns.away():
            return whole(self, *args, **kwargs)

    queue.Queue.get = get  # type: ignore[method-assign]


def _patch_sleep(turns: JobTurns) -> None:
    whole = time.sleep

    @functools.wraps(whole)
    def sleep(seconds: float, /) -> None:
        if seconds < SHORTEST_SLEEP_SECONDS or not turns.can_wait:
            whole(seconds)
        else:
            with turns.away():
                whole(seconds)

    time.sleep = sleep  # type: ignore[assignment]
