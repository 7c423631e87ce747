"""Which of this host's addresses the others are to use, and whether they can reach it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import threading

from motet.errors import UsageError

VARIABLE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # linux/sockios.h
PROBE_SECONDS = 5.0


def address_of(interface: str) -> str | None:
    """Return the IPv4 address of a network interface, None if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket, contextlib.suppress(OSError):
        request = struct.pack("256s", interface[:15].encode())
        return socket.inet_ntoa(fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, request)[20:24])
    return None


def interface_of(address: str) -> str | None:
    """Return the network interface with an address."""
    for _, name in socket.if_nameindex():
        if address_of(name) == address:
            return name
    return "lo" if address.startswith("127.") else None


def choose_address(towards: str) -> str:
    """Return the address of this host's at which its workers listen: of the interface that leads to the meeting.

    Sets it for the workers; what the user has set stays, and `UsageError` says where there is no such interface.
    """
    given = os.environ.get(VARIABLE, "").split(",")[0]
    if given:
        if (address := address_of(given)) is not None:
            return address
        known = ", ".join(name for _, name in socket.if_nameindex())
        raise UsageError(f"{VARIABLE} is {given} on {socket.gethostname()}, whose network interfaces are {known}")
    if (interface := interface_of(towards)) is not None:
        os.environ[VARIABLE] = interface
    return towards


def is_here(host: str) -> bool:
    """Whether an address, or a name, is this host's."""
    try:
        found = socket.getaddrinfo(host, 0, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return False
    for *_, address in found:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
            probe.bind((address[0], 0))  # what is another host's cannot be bound to
            return True
    return False


class Reachable:
    """Listens at an address for as long as others try whether they can reach it."""

    def __init__(self, address: str) -> None:
        self._listener = socket.create_server((address, 0), backlog=128)
        self.at: tuple[str, int] = self._listener.getsockname()[:2]
        threading.Thread(target=self._accept, name="motet-reachable", daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                self._listener.accept()[0].close()

    def close(self) -> None:
        """Listen no longer."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def can_reach(address: str, port: int) -> bool:
    """Whether a host that listens there can be reached from here."""
    try:
        socket.create_connection((address, port), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True
