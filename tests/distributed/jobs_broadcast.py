"""Workers that wait for a word of worker 0's, which fails, dies, or leaves before it comes to that."""

from __future__ import annotations

import builtins
import os
import signal
from typing import Any, NoReturn

import torch.distributed as dist
from tests.distributed.jobs_failures import be_quick, loop

from motet import running
from motet.checkpoints import resuming
from motet.errors import UsageError
from motet.run_dir import RunDir
from motet.workers import Workers


def resumes(path: str) -> None:
    """Go on with the run in ``path``."""
    running.run({"a": loop}, run_dir=path, resume=True, timeout_seconds=60)


def raises(kind: str) -> tuple[str, str]:
    """Have worker 0 raise where the others wait for its word; return what each worker meets."""
    workers = Workers.join(timeout_seconds=30)

    def say() -> NoReturn:
        raise getattr(builtins, kind)("it was worker 0")

    try:
        workers.broadcast_from_0(say)
    except BaseException as error:
        return type(error).__name__, str(error)
    finally:
        workers.leave()
    raise AssertionError("nothing was raised")


def fails_early(path: str, where: str) -> None:
    """Begin a run in which worker 0 alone meets an error before there is a turn."""
    be_quick()

    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError("planned")

    if dist.get_rank() == 0:
        if where == "look":
            resuming.inspect = fail
        else:
            running.JobOutput = fail  # type: ignore[assignment, misc]
    running.run({"a": loop}, run_dir=path, timeout_seconds=20)


def holds(path: str) -> tuple[str, str]:
    """Run a job that looks whether its run can be held by somebody else, and look again afterwards."""

    def look() -> str:
        try:
            with RunDir.open(path).held():
                return "free"
        except UsageError as error:
            return str(error)

    found = running.run({"a": look}, run_dir=path, timeout_seconds=60)["a"].result
    dist.barrier()
    return found, look() if dist.get_rank() == 0 else ""


def dies(timeout_seconds: float) -> None:
    """Kill worker 0 while the other one waits for its word."""
    be_quick()
    workers = Workers.join(timeout_seconds=timeout_seconds)

    def say() -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    try:
        workers.broadcast_from_0(say)
    finally:
        workers.leave(orderly=False)


def talks(num_words: int) -> dict[str, Any]:
    """Exchange words, with keys and without; tell how many keys the store holds before and after."""
    workers = Workers.join(timeout_seconds=30)
    texts = [workers.broadcast_from_0(lambda: "word 0")]
    dist.barrier()
    before = dist.distributed_c10d._get_default_store().num_keys()
    dist.barrier()
    for number in range(1, num_words):
        key = f"key/{number}" if number % 2 else None
        texts.append(workers.broadcast_from_0(lambda number=number: f"word {number}", key=key))  # type: ignore[misc]
    dist.barrier()
    after = dist.distributed_c10d._get_default_store().num_keys()
    workers.leave()
    return {"texts": texts, "before": before, "after": after}
