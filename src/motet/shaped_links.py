"""Workers on a slow network, on one machine: for tests and benchmarks of training on real links.

Each worker gets a network namespace with one interface, ``eth0``. A switch (a bridge in a namespace of its own) joins
them; whatever a worker sends, and whatever the switch sends it, is held to a rate::

    with shaped_links(2, rate="300mbit") as net:
        workers = [net.popen(w, ["python", "train.py"], env=net.torchrun_env(w)) for w in range(2)]

Nothing appears in the machine's own network. Every namespace lives as long as a process that holds it, and that one
ends when this program does, in whatever way: there is nothing to clean up even after a kill. Linux, as root.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motet.errors import UsageError

INTERFACE = "eth0"
PORT = 29500
_TOOLS = ("ip", "tc", "unshare", "nsenter")
_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_MOST_WORKERS = 250
# A whole segment before it is cut into packets (64 KiB) must fit into the bucket, and a fast link needs more than
# one between two ticks of the clock.
_LEAST_BURST_BYTES = 128 * 1024
_BURST_SECONDS = 0.001
# What may wait in front of the link: as much as a shallow switch holds, so that many senders to one lose packets.
_LEAST_QUEUE_BYTES = 1024 * 1024
_QUEUE_SECONDS = 0.05


@dataclass(frozen=True)
class Traffic:
    """What one worker has sent and received, in bytes and packets, headers included (before segments are cut)."""

    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int


class ShapedLinks:
    """The network that `shaped_links` built; valid until its ``with`` block ends."""

    def __init__(self, num_workers: int, rate: str | None) -> None:
        self.num_workers = num_workers
        self.rate = rate
        self._undo = contextlib.ExitStack()
        self._processes: list[subprocess.Popen[Any]] = []
        try:
            self._switch = self._new_namespace()
            self._workers = [self._new_namespace() for _ in range(num_workers)]
            self._connect()
            self.set_rate(rate)
        except BaseException:
            self.close()
            raise

    def address(self, worker: int) -> str:
        """Return the worker's IPv4 address."""
        self._check(worker)
        return f"10.77.0.{worker + 1}"

    def torchrun_env(self, worker: int) -> dict[str, str]:
        """Return what torchrun would put into the environment of a worker: one a node, worker 0 holds the store."""
        return {
            "RANK": str(worker),
            "WORLD_SIZE": str(self.num_workers),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "GROUP_RANK": str(worker),
            "MASTER_ADDR": self.address(0),
            "MASTER_PORT": str(PORT),
        }

    def namespace(self, worker: int) -> str:
        """Return the file that names the worker's network namespace, for a process that enters it (setns)."""
        self._check(worker)
        return f"/proc/{self._workers[worker].pid}/ns/net"

    def popen(
        self, worker: int, command: Sequence[str], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start ``command`` on a worker's side of the network and return the process.

        ``env`` is added to this program's environment, and gloo and NCCL are made to use the link. ``options`` go to
        `subprocess.Popen`. The process is the leader of a session of its own; what is left of it is killed when the
        block ends.
        """
        self._check(worker)
        variables = {**os.environ, **(env or {}), "GLOO_SOCKET_IFNAME": INTERFACE, "NCCL_SOCKET_IFNAME": INTERFACE}
        options = {"start_new_session": True, **options}
        process = subprocess.Popen([*_inside(self._workers[worker]), *command], env=variables, **options)
        self._processes.append(process)
        return process

    def set_rate(self, rate: str | None) -> None:
        """Hold every link to ``rate`` from now on (``"300mbit"``, ``"1gbit"``), each direction; None: no limit."""
        for worker, namespace in enumerate(self._workers):
            for place, device in ((namespace, INTERFACE), (self._switch, _port(worker))):
                _shape(place, device, rate)
        self.rate = rate

    def set_link(self, worker: int, *, up: bool) -> None:
        """Pull a worker's cable out, or plug it in again. While it is out, packets vanish without an error."""
        self._check(worker)
        _call(self._switch, "ip", "link", "set", _port(worker), "up" if up else "down")

    def traffic(self, worker: int) -> Traffic:
        """Return what has gone over a worker's link since the network was built, from the interface's counters."""
        self._check(worker)
        table = Path(f"/proc/{self._workers[worker].pid}/net/dev").read_text()
        row = next(line for line in table.splitlines() if line.strip().startswith(f"{INTERFACE}:"))
        counters = [int(field) for field in row.split(":")[1].split()]
        return Traffic(counters[8], counters[0], counters[9], counters[1])

    def close(self) -> None:
        """Kill what still runs inside and remove the network; happens by itself at the end of the block."""
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    leads = os.getpgid(process.pid) == process.pid
                    (os.killpg if leads else os.kill)(process.pid, signal.SIGKILL)
                process.wait()
        self._undo.close()

    def _check(self, worker: int) -> None:
        if not 0 <= worker < self.num_workers:
            raise UsageError(f"there is no worker {worker}: the network was built for {self.num_workers}, from 0")

    def _new_namespace(self) -> subprocess.Popen[bytes]:
        """Start a process that holds a new namespace: it ends at the end of its input, which is held open here."""
        holder = subprocess.Popen(
            ["unshare", "--net", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for this program alone
        )
        self._undo.callback(_release, holder)
        assert holder.stdin is not None
        assert holder.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            holder.stdin.write(b"\n")
        if holder.stdout.read(1) != b"\n":  # what came back came through `cat`, so the namespace is there
            reason = holder.stderr.read().decode().strip() if holder.stderr else ""
            raise UsageError(f"shaped links need the right to make network namespaces, and got: {reason}. {_ROOT}")
        return holder

    def _connect(self) -> None:
        switch = self._switch
        _call(switch, "ip", "link", "add", "switch", "type", "bridge")
        _call(switch, "ip", "link", "set", "switch", "up")
        for worker, namespace in enumerate(self._workers):
            here, there = ("netns", str(namespace.pid)), ("netns", str(switch.pid))
            veth = ["ip", "link", "add", INTERFACE, *here, "type", "veth", "peer", "name", _port(worker), *there]
            _call(switch, *veth)
            _call(switch, "ip", "link", "set", _port(worker), "master", "switch", "up")
            _call(namespace, "ip", "address", "add", f"{self.address(worker)}/24", "dev", INTERFACE)
            _call(namespace, "ip", "link", "set", INTERFACE, "up")
            _call(namespace, "ip", "link", "set", "lo", "up")


@contextlib.contextmanager
def shaped_links(num_workers: int, rate: str | None = "300mbit") -> Iterator[ShapedLinks]:
    """Build a network of ``num_workers`` namespaces for the block, each link held to ``rate`` in each direction.

    Raises `UsageError` where this is not Linux, not root, or a tool is missing, and for a rate that makes no sense.
    """
    if why := why_not():
        raise UsageError(why)
    if not isinstance(num_workers, int) or not 1 <= num_workers <= _MOST_WORKERS:
        raise UsageError(f"shaped links join 1 to {_MOST_WORKERS} workers; asked for {num_workers!r}")
    if rate is not None:
        bits_per_second(rate)
    net = ShapedLinks(num_workers, rate)
    try:
        yield net
    finally:
        net.close()


_ROOT = "Run as root (sudo), in a container with --cap-add NET_ADMIN --cap-add SYS_ADMIN."


def why_not() -> str | None:
    """Return why this machine cannot have shaped links, as one message; None if it can (as far as one sees)."""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return (
            f"shaped links need Linux and the commands {', '.join(_TOOLS)} (packages iproute2, util-linux); "
            f"not found: {', '.join(missing)}"
        )
    if os.geteuid() != 0:
        return f"shaped links need root, to make network namespaces; this is user {os.geteuid()}. {_ROOT}"
    return None


def bits_per_second(rate: str) -> int:
    """Return a rate such as ``"300mbit"`` as a number; raises `UsageError` for what ``tc`` would not take either."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(\w+)", str(rate).lower())
    if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise UsageError(f"a rate is a number with one of the units {', '.join(_UNITS)}, as 300mbit; got {rate!r}")
    return round(float(match[1]) * _UNITS[match[2]])


def _port(worker: int) -> str:
    return f"port{worker}"


def _shape(place: subprocess.Popen[bytes], device: str, rate: str | None) -> None:
    if rate is None:
        with contextlib.suppress(UsageError):  # there is nothing to remove from a new device
            _call(place, "tc", "qdisc", "delete", "dev", device, "root")
        return
    bits = bits_per_second(rate)
    burst = max(_LEAST_BURST_BYTES, int(bits / 8 * _BURST_SECONDS))
    limit = max(_LEAST_QUEUE_BYTES, int(bits / 8 * _QUEUE_SECONDS)) + burst
    shape = ["tbf", "rate", f"{bits}bit", "burst", str(burst), "limit", str(limit)]
    _call(place, "tc", "qdisc", "replace", "dev", device, "root", *shape)


def _inside(namespace: subprocess.Popen[bytes]) -> list[str]:
    return ["nsenter", f"--net=/proc/{namespace.pid}/ns/net", "--"]


def _call(place: subprocess.Popen[bytes], *command: str) -> None:
    done = subprocess.run([*_inside(place), *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UsageError(f"shaped links: `{' '.join(command)}` failed: {done.stderr.strip()}. {_ROOT}")


def _release(holder: subprocess.Popen[bytes]) -> None:
    assert holder.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        holder.stdin.close()
    holder.wait()
    for stream in (holder.stdout, holder.stderr):
        if stream is not None:
            stream.close()
