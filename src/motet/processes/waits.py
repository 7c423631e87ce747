"""Where a job begins to wait: torch's and Python's blocking calls, each of which gives the turn away meanwhile.

What is replaced, and by which method of `BlockingCalls`, is in `motet.patches.IN_A_JOBS_PROCESS`: in a job's own
process, for as long as it lives. A wait that is over before it begins keeps the turn. What waits elsewhere (C++ of a
library, a lock, a file system) is not seen here: the worker notices that the job uses no processor
(`motet.processes.unseen`).
"""

from __future__ import annotations

import concurrent.futures
import queue
import subprocess
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from motet.intercept import loader_workers
from motet.patches import IN_A_JOBS_PROCESS
from motet.patching import Call, replace_names
from motet.processes.turns import JobTurns
from motet.same_files import report_and_write

SHORTEST_SLEEP_SECONDS = 0.001
FORWARDS_THAT_LAY_OUT = 4


def patch(turns: JobTurns, built: Callable[[DistributedDataParallel], None] = lambda model: None) -> None:
    """Have every wait of this process give the turn away. ``built`` is called without it, for each model in DDP."""
    loader_workers.follow_job()
    replace_names(IN_A_JOBS_PROCESS, BlockingCalls(turns, built), eager=torch._dynamo.disable)


def job_over() -> None:
    """The job of this process is over: its DataLoader workers may end."""
    loader_workers.job_over()


class BlockingCalls:
    """What is called in place of the blocking calls. Each method is given the original, and then its arguments."""

    def __init__(self, turns: JobTurns, built: Callable[[DistributedDataParallel], None]) -> None:
        self._turns = turns
        self._num_forwards: dict[int, int] = {}  # by reducer whose buckets may still be laid out anew
        self._built = built

    def wait(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Wait without the turn."""
        return self._wait(lambda: False, original, *args, **kwargs)

    def _wait(self, over: Callable[[], bool], original: Call, /, *args: Any, **kwargs: Any) -> Any:
        if not self._turns.can_wait or over():
            return original(*args, **kwargs)
        with self._turns.away():
            return original(*args, **kwargs)

    # Gradients

    def backward(self, original: Call, tensors: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Run a backward; a turn ends when its gradients leave."""
        return self._turns.backward(original, tensors, args, kwargs)

    def build_ddp(self, original: Call, model: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """Build a model in DDP, together with all workers."""
        of_this_job = self._turns.can_wait
        with self._turns.away():
            original(model, *args, **kwargs)
            if of_this_job:
                self._built(model)
        self._turns.built(model)
        self._num_forwards[id(model.reducer)] = 0

    def restore_ddp(self, original: Call, model: DistributedDataParallel, /, *args: Any, **kwargs: Any) -> None:
        """Restore a copied or unpickled model in DDP, which builds a reducer of its own."""
        original(model, *args, **kwargs)
        self._turns.built(model)
        self._num_forwards[id(model.reducer)] = 0

    def lay_out_buckets(self, original: Call, reducer: Any, /) -> bool:
        """In its second forward, or one soon after, DDP agrees on its buckets with all workers."""
        number = self._num_forwards.get(id(reducer), FORWARDS_THAT_LAY_OUT)
        if number >= FORWARDS_THAT_LAY_OUT:
            return bool(original(reducer))
        self._num_forwards[id(reducer)] = number + 1
        done = bool(original(reducer) if number == 0 else self.wait(original, reducer))
        if done:
            self._num_forwards[id(reducer)] = FORWARDS_THAT_LAY_OUT
        return done

    def prepare(self, original: Call, reducer: Any, /, *args: Any, **kwargs: Any) -> None:
        """Note that the reducer synchronizes what comes of this forward."""
        self._turns.prepared(reducer)
        original(reducer, *args, **kwargs)

    def join_begins(self, original: Call, join: Join, /) -> Any:
        """Inside of `Join`, workers take different numbers of steps."""
        self._turns.join_begins()
        return original(join)

    def join_ends(self, original: Call, join: Join, /, *error: Any) -> Any:
        """From here on they take equally many."""
        try:
            return original(join, *error)
        finally:
            self._turns.join_ends()

    # Collectives

    def wait_work(self, original: Call, work: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Wait for a collective."""
        return self._turns.wait_collective(lambda: original(work, *args, **kwargs), work.is_completed)

    def wait_tensor(self, original: Call, tensor: torch.Tensor, /) -> torch.Tensor:
        """Wait for what a functional collective returns."""
        if torch.compiler.is_compiling():
            return original(tensor)  # type: ignore[no-any-return]
        return self._turns.wait_collective(lambda: original(tensor), lambda: False)  # type: ignore[no-any-return]

    # What the program has started itself

    def next_batch(self, original: Call, loader: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Wait for a DataLoader's workers."""
        if not self._turns.can_wait:
            return original(loader, *args, **kwargs)
        found = original(loader, 0.0)
        if found[0]:
            return found
        with self._turns.away():
            return original(loader, *args, **kwargs)

    # The worker that calls it is found on the stack: nothing may stand in between.
    begin_loader_worker = staticmethod(loader_workers.begin)
    loader_worker_failed = staticmethod(loader_workers.leave_to_loaders)

    def take_from_queue(self, original: Call, items: queue.Queue[Any], /, *args: Any, **kwargs: Any) -> Any:
        """Wait for what a thread of the program puts into a queue."""
        blocks = args[0] if args else kwargs.get("block", True)
        return self._wait(lambda: not blocks or items.qsize() > 0, original, items, *args, **kwargs)

    def future_result(self, original: Call, future: concurrent.futures.Future[Any], /, *args: Any, **kw: Any) -> Any:
        """Wait for a future."""
        return self._wait(future.done, original, future, *args, **kw)

    def join_thread(self, original: Call, thread: threading.Thread, /, *args: Any, **kwargs: Any) -> Any:
        """Wait for a thread."""
        return self._wait(lambda: not thread.is_alive(), original, thread, *args, **kwargs)

    def wait_child(self, original: Call, child: subprocess.Popen[Any], /, *args: Any, **kwargs: Any) -> Any:
        """Wait for a program."""
        return self._wait(lambda: child.poll() is not None, original, child, *args, **kwargs)

    def join_process(self, original: Call, process: BaseProcess, /, *args: Any, **kwargs: Any) -> Any:
        """Wait for a process."""
        return self._wait(lambda: not process.is_alive(), original, process, *args, **kwargs)

    def sleep(self, original: Call, seconds: float, /) -> None:
        """Sleep; for a moment with the turn."""
        self._wait(lambda: seconds < SHORTEST_SLEEP_SECONDS, original, seconds)

    # Files

    def write_file(self, original: Call, /, *args: Any, **kwargs: Any) -> Any:
        """Write a file from C++."""
        return report_and_write(original, *args, **kwargs)
