"""What a job's process and its worker tell each other: data, one line of JSON each, over a socket of their own."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from motet.config import OnNan

MOST_READS = 16  # at one look: who writes faster than that waits
GO_ON, STOP, STOP_NOW = range(3)
"""What a worker wishes of a job: to go on; to stop at its next save point, or, where it saves nothing, after its turn;
to stop after its turn."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a job's process is told when it begins.

    ``attempt`` counts the processes that this job has had in this run on each worker alike. ``table``, ``wake``,
    ``channel``: open files (`motet.processes.turn_table`, `Channel`). ``environment``: what torchrun would have set
    and has not. ``spec`` is the job as data, None for a callable that the parent holds under the job's name.
    ``prefix`` parts the store of the gang.
    """

    name: str
    seat: int
    attempt: int
    worker: int
    num_workers: int
    table: int
    wake: tuple[int, ...]
    strict: bool
    channel: int
    prefix: str
    spec: Mapping[str, Any] | None
    turns: int | None
    cwd: str | None
    env: Mapping[str, str] | None
    environment: Mapping[str, str]
    run_dir: str | None
    job_dir: str | None
    checkpoints: str | None
    seed: int | None
    on_nan: OnNan
    start: str
    timeout_seconds: float
    separate_disks: bool
    own_disk: bool

    def to_json(self) -> str:
        """Return one line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Start:
        """Rebuild what `to_json` gave."""
        fields = json.loads(text)
        return cls(**{**fields, "wake": tuple(fields["wake"])})


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job's loop ended in one process; its exit status is still to come. ``turns``: synchronized ones."""

    status: str
    turns: int
    kind: str = ""
    error: str | None = None
    num_ddp: int = 0
    result: str | None = None  # the file that holds it


class Channel:
    """One end of the socket. The job's end blocks; the worker's does not."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._unread = b""
        self._lock = threading.RLock()

    def send(self, what: str, **fields: Any) -> None:
        """Send a message; a worker that has gone harms nobody: this process ends with it."""
        line = json.dumps({"what": what, **fields}).encode()
        with contextlib.suppress(OSError), self._lock:
            self._socket.sendall(b"\n" + line + b"\n")  # a line before that was cut off ends here

    def received(self) -> Iterator[dict[str, Any]]:
        """Yield the messages that are there by now."""
        for _ in range(MOST_READS):
            try:
                data = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionError):
                break
            if not data:
                break
            self._unread += data
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # one that was cut off, by what ended its loop
                yield json.loads(line)

    def close(self) -> None:
        """Close this end."""
        self._socket.close()
