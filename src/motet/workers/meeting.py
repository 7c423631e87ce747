"""The store at which the workers of a run meet: torch elastic's, or one that worker 0 of several tasks keeps.

Where something else than torchrun has started one process for each worker (`motet.started_by`), worker 0 keeps the
store. It listens on the one address that the others know, on one host on loopback alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # it is: torch documents it
from torch.distributed.rendezvous import rendezvous

from motet.errors import SyncTimeoutError, UsageError, WorkerLostError
from motet.started_by import LOOPBACK, find_tasks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

MEETING_SECONDS = 600.0
FIRST_NOTICE_SECONDS = 5.0
LAST_SECONDS = 60.0
_kept: list[object] = []
_tasks: list[str] = []


def enter_tasks() -> None:
    """Find out which of several tasks this process is, and set what torchrun would have set; worker 0 opens the store.

    Does nothing where torchrun has started this process, or where it is no task of several.
    """
    if _tasks or (tasks := find_tasks(os.environ)) is None:
        return
    _tasks.append(tasks.by)
    tasks.enter(os.environ)
    if os.environ["MASTER_ADDR"] == LOOPBACK:
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, loopback)
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # torch's word for: all workers are clients of the store
    if tasks.rank == 0:
        _kept.append(_open_store(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])))


def is_task() -> bool:
    """Whether this process is one of several tasks that something else than torchrun has started."""
    return bool(_tasks)


def meet(timeout_seconds: float = MEETING_SECONDS) -> tuple[Store, int, int]:
    """Return the store, this worker's number, and how many there are; blocks until the store can be reached."""
    enter_tasks()
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store: Store
    try:
        store, rank, size = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=timeout_seconds)))
    except RuntimeError as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise WorkerLostError(
            f"Worker {rank} cannot reach worker 0 at {where} (MASTER_ADDR and MASTER_PORT): {_first_line(error)}"
        ) from None
    return store, rank, size


def wait_for_all(store: Store, key: str, rank: int, size: int, notify: Callable[[str], None]) -> None:
    """Block until all workers have come; worker 0 says who is missing. Raises `SyncTimeoutError` when it takes long."""
    store.set(f"{key}/{rank}", socket.gethostname())
    begin, notified = time.monotonic(), 0.0
    while True:
        missing = [worker for worker in range(size) if not store.check([f"{key}/{worker}"])]
        if not missing or rank != 0:
            return
        waited = time.monotonic() - begin
        text = f"{size - len(missing)} of {size} workers are here; missing: {', '.join(map(str, missing[:8]))}"
        if waited > MEETING_SECONDS:
            raise SyncTimeoutError(f"After {waited:.0f} s {text}. Were all of the tasks started?")
        if waited > FIRST_NOTICE_SECONDS and waited > 2 * notified:
            notified = waited
            notify(text)
        time.sleep(0.05)


def part() -> None:
    """Let worker 0 of several tasks end last: it keeps the store. And no task ends before worker 0 has done its part.

    Whoever has started them may end all others as soon as one ends with a failure.
    """
    if not _tasks:
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with contextlib.suppress(RuntimeError, WorkerLostError):
        store = meet(5.0)[0]
        if rank == 0:
            store.set("motet/over", "0")
        deadline = time.monotonic() + (5.0 if rank == 0 else LAST_SECONDS)
        while not store.check(["motet/over"]) and time.monotonic() < deadline:
            time.sleep(0.02)
        gone = store.add("motet/gone", 1)
        while rank == 0 and gone < size and time.monotonic() < deadline:
            time.sleep(0.02)
            gone = store.add("motet/gone", 0)


def _open_store(host: str, port: int) -> TCPStore:
    """Open the store on the address of ``host``; on all of this machine's where that is another one's (a service)."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0][4]
        except OSError as error:
            raise UsageError(f"MASTER_ADDR is {host}, and there is no host of that name: {error}") from None
        try:
            listener.bind(address)
        except OSError:
            listener.bind(("", port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UsageError(f"worker 0 cannot listen on port {port} ({error}); MASTER_PORT sets another one") from None
    return TCPStore(host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
