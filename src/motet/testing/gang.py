"""Worker processes that stay, and run what a test sends them."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import connection, context, forkserver, get_context
from pathlib import Path
from typing import Any

from motet.errors import MotetError
from motet.shaped_links import INTERFACE, ShapedLinks

Call = str | Callable[..., Any]
"""A function that every worker can import: itself, or ``"module:function"`` (then the test imports nothing)."""

_LOOPBACK = "127.0.0.1"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_START_SECONDS = 120.0
_TAIL_CHARACTERS = 12_000
# Imported once, in the process from which all workers are forked.
_PRELOADED = ["torch", "torch.nn.parallel", "torch._dynamo", "numpy", "motet.running"]


class GangCallError(MotetError):
    """A function that was sent to a gang raised or hung on some worker, or a worker died."""


@dataclass(frozen=True)
class Outcome:
    """What came of a call on one worker: it returned ``value``, raised, or the process ended.

    ``error`` is the traceback's text and ``kind`` the exception's type; ``status`` the exit status (negative: the
    signal) of a process that ended; ``seconds`` how long after the call all of this was known.
    """

    value: Any = None
    error: str | None = None
    kind: str | None = None
    status: int | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return self.error is None and self.status is None

    def __str__(self) -> str:
        if self.status is not None:
            return f"ended with exit status {self.status}"
        return self.error if self.error is not None else f"returned {self.value!r:.200}"


class Gang:
    """Worker processes that stay between calls, joined by a gloo process group on loopback.

    They start with the first call, one intra-op thread each, and find the environment that torchrun would give them.
    With ``joined=False`` they make the process group themselves, as scripts do. After a call that did not return on
    all workers the next one gets new workers, because nobody knows what the process group is left with.

    On ``links`` (see `shaped_links`) each worker stands on its own side of the network, and the store beside worker 0.
    """

    def __init__(
        self,
        num_workers: int,
        *,
        joined: bool = True,
        timeout_seconds: float = 60.0,
        environment: Mapping[str, str] | None = None,
        links: ShapedLinks | None = None,
    ) -> None:
        self.num_workers = num_workers
        self.timeout_seconds = timeout_seconds
        self._joined = joined
        self._links = links
        interface = INTERFACE if links is not None else "lo0" if sys.platform == "darwin" else "lo"
        self._environment = {"GLOO_SOCKET_IFNAME": interface, **(environment or {})}
        self._processes: list[context.ForkServerProcess] = []
        self._connections: list[connection.Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, function: Call, /, *args: Any, timeout_seconds: float | None = None, **kwargs: Any) -> list[Any]:
        """Run a function on every worker; return the results by worker. Blocks until all have returned.

        Raises `GangCallError` if one raises, dies, or takes longer than the timeout (then with the stacks of all).
        """
        outcomes = self.attempt(function, *args, timeout_seconds=timeout_seconds, **kwargs)
        if not all(outcome.ok for outcome in outcomes):
            lines = "\n".join(f"worker {w} {outcome}" for w, outcome in enumerate(outcomes))
            raise GangCallError(f"{_name(function)} did not return on every worker:\n{lines}\n{self._outputs()}")
        return [outcome.value for outcome in outcomes]

    def attempt(
        self, function: Call, /, *args: Any, timeout_seconds: float | None = None, **kwargs: Any
    ) -> list[Outcome]:
        """Run a function on every worker; return what came of it, by worker, also where it raised or died.

        Raises `GangCallError` only for a function that takes longer than the timeout.
        """
        self.start()
        begin = time.monotonic()
        request = pickle.dumps((_name(function) if isinstance(function, str) else function, args, kwargs))
        for end in self._connections[: self.num_workers]:
            with contextlib.suppress(OSError):  # the worker has died: seen below
                end.send_bytes(request)
        try:
            outcomes = self._gather(begin, timeout_seconds or self.timeout_seconds, _name(function))
        except BaseException:
            self._end(kill=True)
            raise
        if not all(outcome.ok for outcome in outcomes):
            self._end(kill=True, keep_output=True)
        return outcomes

    def start(self) -> None:
        """Start the workers if there are none. Blocks until they are joined."""
        if self._processes:
            return
        self._end(kill=True)
        self._folder = tempfile.TemporaryDirectory(prefix="motet-gang-")
        try:
            self._start()
        except BaseException:
            self._end(kill=True)
            raise

    def close(self) -> None:
        """End the workers."""
        self._end(kill=False)

    def __enter__(self) -> Gang:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers, without that of the store's host."""
        return [process.pid or 0 for process in self._processes[: self.num_workers]]

    def output(self, worker: int) -> str:
        """Return what a worker has written to its standard output and error, since the gang started."""
        if self._folder is None:
            return ""
        return (Path(self._folder.name) / str(worker)).read_text(encoding="utf-8", errors="replace")

    def _start(self) -> None:
        assert self._folder is not None
        # The store has a host of its own, as under torchrun: it outlives every worker.
        address = self._links.address(0) if self._links is not None else _LOOPBACK
        port = self._start_process(0, _host_store, "store", self._environment, address)
        store_port, store_process, store_connection = port.recv(), self._processes.pop(), self._connections.pop()
        for worker in range(self.num_workers):
            environment = _torchrun_environment(worker, self.num_workers, address, store_port) | self._environment
            self._start_process(worker, _serve, str(worker), environment, self._joined)
        begin = time.monotonic()
        outcomes = self._gather(begin, _START_SECONDS, "the start of the gang")
        self._processes.append(store_process)
        self._connections.append(store_connection)
        if not all(outcome.ok for outcome in outcomes):
            raise GangCallError("The gang did not start:\n" + "\n".join(map(str, outcomes)) + self._outputs())

    def _start_process(
        self, worker: int, target: Callable[..., None], output: str, *args: Any
    ) -> connection.Connection:
        """Start a process on a worker's side of the network; its output goes to a file of that name."""
        assert self._folder is not None
        namespace = self._links.namespace(worker) if self._links is not None else None
        context = get_context("forkserver")
        with _one_thread():
            context.set_forkserver_preload(_PRELOADED)
            forkserver.ensure_running()
        ours, theirs = context.Pipe()
        path = str(Path(self._folder.name) / output)
        process = context.Process(target=_live, args=(path, namespace, target, theirs, *args), daemon=False)
        process.start()
        theirs.close()
        self._processes.append(process)
        self._connections.append(ours)
        return ours

    def _gather(self, begin: float, timeout_seconds: float, what: str) -> list[Outcome]:
        """Wait until every worker has answered or died."""
        outcomes: dict[int, Outcome] = {}
        while len(outcomes) < self.num_workers:
            left = begin + timeout_seconds - time.monotonic()
            waited = {self._connections[w]: w for w in range(self.num_workers) if w not in outcomes}
            ready = connection.wait(list(waited), timeout=max(left, 0.0))
            if not ready:
                raise GangCallError(self._report_hang(what, timeout_seconds, outcomes))
            for end in ready:
                assert isinstance(end, connection.Connection)
                outcomes[waited[end]] = self._receive(waited[end], end, begin)
        return [outcomes[worker] for worker in range(self.num_workers)]

    def _receive(self, worker: int, end: connection.Connection, begin: float) -> Outcome:
        seconds = time.monotonic() - begin
        try:
            fields = pickle.loads(end.recv_bytes())
        except (EOFError, OSError):
            process = self._processes[worker]
            process.join(10)
            return Outcome(
                status=process.exitcode if process.exitcode is not None else -signal.SIGKILL, seconds=seconds
            )
        return Outcome(**fields, seconds=seconds)

    def _report_hang(self, what: str, timeout_seconds: float, outcomes: Mapping[int, Outcome]) -> str:
        hung = [worker for worker in range(self.num_workers) if worker not in outcomes]
        sizes = {worker: len(self.output(worker)) for worker in hung}
        for worker in hung:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pids[worker], signal.SIGUSR1)  # faulthandler writes the stacks
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and any(len(self.output(w)) == size for w, size in sizes.items()):
            connection.wait([self._connections[w] for w in hung], timeout=0.05)
        connection.wait([self._connections[w] for w in hung], timeout=0.3)  # all threads of the last one
        lines = "\n".join(f"worker {w} {outcome}" for w, outcome in sorted(outcomes.items()))
        return f"{what} took longer than {timeout_seconds:g} s on workers {hung}\n{lines}\n{self._outputs()}"

    def _outputs(self) -> str:
        return "\n".join(
            f"--- output of worker {w}:\n{self.output(w)[-_TAIL_CHARACTERS:]}" for w in range(self.num_workers)
        )

    def _end(self, *, kill: bool, keep_output: bool = False) -> None:
        for process in self._processes:
            if kill:
                process.kill()
        for end in self._connections:
            end.close()  # so a worker sees that nothing comes any more
        for process in self._processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._processes, self._connections = [], []
        if self._folder is not None and not keep_output:
            self._folder.cleanup()
            self._folder = None


def _name(function: Call) -> str:
    return function if isinstance(function, str) else f"{function.__module__}:{function.__qualname__}"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let the process from which workers are forked have no thread pools: they would not survive the fork."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _live(
    path: str, namespace: str | None, target: Callable[..., None], end: connection.Connection, *args: Any
) -> None:
    """Be a process of a gang: its output goes to ``path``."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if namespace is not None:
        # For this thread and those that it will start: there are no others yet, right after the fork.
        libc, here = ctypes.CDLL(None, use_errno=True), os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        if libc.setns(here, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
        os.close(here)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    faulthandler.enable(file=2)
    faulthandler.register(signal.SIGUSR1, file=2, all_threads=True)
    target(end, *args)


def _host_store(end: connection.Connection, environment: Mapping[str, str], address: str) -> None:
    """Host the workers' store until the other end closes."""
    os.environ.update(environment)
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind((address, 0))
    listener.listen()
    port = listener.getsockname()[1]
    store = TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach())
    end.send(port)
    with contextlib.suppress(EOFError, OSError):
        end.recv()
    del store
    os._exit(0)


def _torchrun_environment(worker: int, num_workers: int, address: str, port: int) -> dict[str, str]:
    ranks = {"RANK": worker, "LOCAL_RANK": worker, "GROUP_RANK": 0, "ROLE_RANK": worker}
    sizes = {"WORLD_SIZE": num_workers, "LOCAL_WORLD_SIZE": num_workers, "GROUP_WORLD_SIZE": 1}
    store = {"MASTER_ADDR": address, "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True}
    launch = {"TORCHELASTIC_RUN_ID": "gang", "TORCHELASTIC_RESTART_COUNT": 0}
    return {key: str(value) for key, value in {**ranks, **sizes, **store, **launch}.items()}


def _serve(end: connection.Connection, environment: Mapping[str, str], joined: bool) -> None:
    """Join the group, then run what comes; a worker's whole life."""
    os.environ.update(environment)
    import torch
    import torch.distributed as dist

    def join() -> None:
        torch.set_num_threads(1)
        multiprocessing.set_start_method(None, force=True)  # the forkserver is our choice, not the test's
        if joined:
            dist.init_process_group("gloo")

    answer = _attempt(join, (), {})
    with contextlib.suppress(EOFError, OSError):
        while True:
            end.send_bytes(answer)
            function, args, kwargs = pickle.loads(end.recv_bytes())
            answer = _attempt(function, args, kwargs)
    os._exit(0)  # at once: groups whose other workers are gone would hold up the end of the interpreter


def _attempt(function: Call, args: Any, kwargs: Any) -> bytes:
    """Call, and return the fields of an `Outcome`, pickled."""
    try:
        if isinstance(function, str):
            module, _, name = function.partition(":")
            function = getattr(importlib.import_module(module), name)
            assert callable(function)
        return pickle.dumps({"value": function(*args, **kwargs)})
    except BaseException as error:
        return pickle.dumps({"error": traceback.format_exc(), "kind": type(error).__name__})
