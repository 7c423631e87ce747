"""Hosts of a cluster on one machine: each has a network, a name and a disk of its own, and nothing outside is reached.

A host is a set of Linux namespaces (network, UTS, mount) on a bridge that has a namespace of its own. ``/srv`` is the
host's own disk, ``shared`` one that all of them see. Needs root and iproute2; no daemon, no container.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent.parent
MARK = "MOTET_TEST_HOST"
LONGEST_SECONDS = 120.0
# Mounts what is the host's own and takes its name; /sys stays as it is (slurmd wants to see cgroups there).
_ENTER = 'mount --bind "$1/hosts" /etc/hosts && mount --bind "$1/disk" /srv && hostname "$2" && shift 2 && exec "$@"'


def missing() -> str | None:
    """Return why there can be no hosts here, or None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need Linux and root"
    for tool in ("ip", "nsenter", "unshare", "mount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    probe = f"motet-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True, text=True)
    if made.returncode == 0:
        made = subprocess.run(
            ["ip", "-n", probe, "link", "add", "br0", "type", "bridge"], check=False, capture_output=True, text=True
        )
        subprocess.run(["ip", "netns", "del", probe], check=False)
    return f"namespaces cannot be made here: {made.stderr.strip()}" if made.returncode else None


class Hosts:
    """``h0``, ``h1``, … and ``login``, joined by a switch. Use it as a context; all that it made is gone afterwards."""

    def __init__(self, num_hosts: int) -> None:
        self.names = [f"h{number}" for number in range(num_hosts)]
        self.shared = Path(tempfile.mkdtemp(prefix="motet-cluster-"))
        self._tag = f"mt{os.getpid():x}{time.monotonic_ns() % 4096:x}"
        self.environment = {**os.environ, MARK: self._tag, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        paths = (str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH"))
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        for name in [name for name in self.environment if name.startswith(("SLURM_", "PET_", "OMPI_"))]:
            del self.environment[name]
        wrapper = self.shared / "bin" / "motet"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m motet "$@"\n')
        wrapper.chmod(0o755)
        self.environment["PATH"] = os.pathsep.join((str(wrapper.parent), *os.environ["PATH"].split(os.pathsep)))

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return "10.77.0.254" if name == "login" else f"10.77.0.{10 + int(name[1:])}"

    def __enter__(self) -> Hosts:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        switch = self._space("login")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "set", "lo", "up")
        _ip("-n", switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", switch, "link", "set", "br0", "up")
        _ip("-n", switch, "addr", "add", f"{self.address('login')}/24", "dev", "br0")
        known = [f"{self.address(name)} {name}" for name in ("login", *self.names)]
        for number, name in enumerate(self.names):
            space, cable = self._space(name), f"{self._tag}{number}"
            _ip("netns", "add", space)
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("link", "add", cable, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", switch, "link", "set", cable, "master", "br0")
            _ip("-n", switch, "link", "set", cable, "up")
            _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
        for name in ("login", *self.names):
            place = self.shared / "of" / name
            (place / "disk").mkdir(parents=True)
            (place / "hosts").write_text("\n".join(["127.0.0.1 localhost", *known]) + "\n")

    def disk(self, name: str) -> Path:
        """Return where the own disk of a host (its ``/srv``) lies for the test."""
        return self.shared / "of" / name / "disk"

    def link(self, name: str, state: str) -> None:
        """Pull the host's cable (``down``) or plug it in again (``up``)."""
        _ip("-n", self._space("login"), "link", "set", f"{self._tag}{self.names.index(name)}", state)

    def start(
        self,
        name: str,
        *words: str,
        cwd: Path | str | None = None,
        variables: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
    ) -> subprocess.Popen[str]:
        """Start a command on a host, in a folder that all hosts see unless ``cwd`` says otherwise."""
        environment = {**self.environment, **(variables or {})}
        for variable in without:
            environment.pop(variable, None)
        return subprocess.Popen(
            self.on(name, *words),
            cwd=cwd or self.shared,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )

    def on(self, name: str, *words: str) -> list[str]:
        """Return the command that runs ``words`` on a host; one that is there already is entered by its network."""
        enter = ["sh", "-c", _ENTER, "sh", str(self.shared / "of" / name), name]
        where = [f"--net=/run/netns/{self._space(name)}", "unshare", "--uts", "--mount"]
        return ["nsenter", *where, *enter, "env", f"MOTET_TEST_ON={name}", *words]

    def run(self, name: str, *words: str, **options: object) -> tuple[int, str, str]:
        """Run a command on a host to its end; return its status, stdout and stderr."""
        return ended(self.start(name, *words, **options))  # type: ignore[arg-type]

    def processes(self, name: str | None = None) -> list[psutil.Process]:
        """Return the processes that run on a host, or on any."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                theirs = process.environ()
                if theirs.get(MARK) == self._tag and name in (None, theirs.get("MOTET_TEST_ON")):
                    found.append(process)
        return found

    def crash(self, name: str) -> None:
        """End all that runs on a host, as a power failure does."""
        for process in self.processes(name):
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End whatever runs, and remove the namespaces and the disks."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for name in ("login", *self.names):
            subprocess.run(["ip", "netns", "del", self._space(name)], check=False, capture_output=True)
        shutil.rmtree(self.shared, ignore_errors=True)

    def _space(self, name: str) -> str:
        return f"{self._tag}-{name}"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a command; return its status, stdout and stderr."""
    try:
        out, err = process.communicate(timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"it did not end:\n{out}\n{err}") from None
    return process.returncode, out, err
