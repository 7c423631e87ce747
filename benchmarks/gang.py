"""The processes that are measured: workers on shaped links or on loopback, one core each where there are enough."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motet.shaped_links import PORT, ShapedLinks, shaped_links, why_not

WORKER = Path(__file__).with_name("worker.py")


class Process:
    """One process of the gang: commands go in, answers come out, one line each."""

    def __init__(self, process: subprocess.Popen[str], errors: Any) -> None:
        self._process = process
        self._errors = errors

    def send(self, command: dict[str, Any]) -> None:
        """Send a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Block for the next answer; raise if the process met an error or ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended with status {self._process.wait()}"}
        if "error" in answer:
            self._errors.seek(0)
            raise RuntimeError(f"a worker failed: {answer['error']}\n{self._errors.read()[-4000:]}")
        return answer

    def fileno(self) -> int:
        """Where its answers come out."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once, whatever it does; `end` clears away after it."""
        self._process.kill()

    def end(self) -> None:
        """Close its input, so that it ends; kill it if it does not."""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()


@dataclass(frozen=True)
class Figures:
    """One measurement of all workers: from the first that began to the last that ended."""

    seconds: float
    cpu_seconds: float
    sent_bytes: int
    parts: list[dict[str, Any]] = field(default_factory=list)


class Gang:
    """``num_workers`` workers; made by `gang`. ``links`` is None on loopback."""

    def __init__(self, num_workers: int, links: ShapedLinks | None, environment: dict[str, str]) -> None:
        self.num_workers = num_workers
        self.links = links
        self._environment = environment
        self._groups: list[list[Process]] = []
        self._main: list[Process] = []
        self._beside: list[list[Process]] = []

    @property
    def core_each(self) -> bool:
        """Whether every worker has a core of its own."""
        return self.num_workers <= len(os.sched_getaffinity(0))

    def start_group(self) -> list[Process]:
        """Start one process on every worker, joined by a group of their own; block until they are joined."""
        port = PORT + len(self._groups) if self.links is not None else _free_port()
        group = [self._start(worker, port) for worker in range(self.num_workers)]
        self._groups.append(group)
        _answers(group)
        return group

    def _start(self, worker: int, port: int) -> Process:
        cores = sorted(os.sched_getaffinity(0))
        command = ["taskset", "-c", str(cores[worker % len(cores)]), sys.executable, str(WORKER)]
        errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True}
        env = {"OMP_NUM_THREADS": "1", **self._environment}
        if self.links is not None:
            env = {**self.links.torchrun_env(worker), "MASTER_PORT": str(port), **env}
            return Process(self.links.popen(worker, command, env=env, **pipes), errors)
        own = {"RANK": str(worker), "WORLD_SIZE": str(self.num_workers), "LOCAL_RANK": str(worker)}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
        return Process(subprocess.Popen(command, env={**os.environ, **own, **env}, **pipes), errors)

    def set_rate(self, rate: str | None) -> None:
        """Hold the links to a rate; nothing to do on loopback."""
        if self.links is not None:
            self.links.set_rate(rate)

    def measure(self, method: str, job_set: str, units: int, **options: Any) -> Figures:
        """Have the workers run a set by one method; return what they measured together."""
        if not self._main:
            self._main = self.start_group()
        for process in self._main:
            process.send({"method": method, "set": job_set, "units": units, **options})
        return _joined(_answers(self._main))

    def measure_side_by_side(self, job_set: str, names: list[str], units: int, **options: Any) -> Figures:
        """Run each job of a set in processes of its own, all at the same time."""
        while len(self._beside) < len(names):
            self._beside.append(self.start_group())
        processes: list[Process] = []
        for group, name in zip(self._beside, names, strict=False):
            for process in group:
                process.send({"method": "side by side", "set": job_set, "units": units, "job": name, **options})
                processes.append(process)
        _answers(processes)
        for process in processes:
            process.send({})
        return _joined(_answers(processes))

    def pids_of(self, worker: int) -> list[int]:
        """Return the numbers of all processes of one worker."""
        return [group[worker].pid for group in self._groups]

    def kill(self) -> None:
        """End all processes at once: what they measure is of no use any more."""
        for group in self._groups:
            for process in group:
                process.kill()

    def close(self) -> None:
        """End all processes."""
        for group in self._groups:
            for process in group:
                process.end()


def _answers(processes: list[Process]) -> list[dict[str, Any]]:
    """Block for one answer of each; raise as soon as any fails, for then the others may wait for it forever."""
    answers: dict[int, dict[str, Any]] = {}
    with selectors.DefaultSelector() as selector:
        for number, process in enumerate(processes):
            selector.register(process, selectors.EVENT_READ, number)
        while len(answers) < len(processes):
            for key, _ in selector.select():
                answers[key.data] = processes[key.data].answer()
                selector.unregister(key.fileobj)
    return [answers[number] for number in range(len(processes))]


def _joined(answers: list[dict[str, Any]]) -> Figures:
    return Figures(
        seconds=max(a["end"] for a in answers) - min(a["begin"] for a in answers),
        cpu_seconds=max(a["cpu_seconds"] for a in answers),
        sent_bytes=max(a["sent_bytes"] for a in answers),
        parts=[a["parts"] for a in answers],
    )


@contextlib.contextmanager
def gang(num_workers: int, *, shaped: bool = True, environment: dict[str, str] | None = None) -> Iterator[Gang]:
    """Start workers for the block: on shaped links if ``shaped`` and this machine can, otherwise on loopback.

    Nothing is left behind, also where the block is left by an error, Ctrl-C or SIGTERM (as of ``timeout``).
    """
    with contextlib.ExitStack() as stack:
        before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        stack.callback(signal.signal, signal.SIGTERM, before)
        links = stack.enter_context(shaped_links(num_workers, None)) if shaped and why_not() is None else None
        workers = Gang(num_workers, links, environment or {})
        stack.callback(workers.close)
        try:
            yield workers
        except BaseException:
            workers.kill()
            raise


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
