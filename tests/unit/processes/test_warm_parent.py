"""What the warm parent reports is read to the last message, however many come at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from motet.errors import WorkerFailedError
from motet.processes.job_messages import Exited, Forked, Start
from motet.processes.messages import Message, pack
from motet.processes.warm_parent import WarmParent

Wires = tuple[WarmParent, socket.socket]


@pytest.fixture
def wires() -> Iterator[Wires]:
    """Return the worker's side of a warm parent, and the other end."""
    here, there = socket.socketpair()
    yield WarmParent(here, os.getpid()), there
    here.close()
    there.close()


def start() -> Start:
    known: dict[str, Any] = {"name": "a", "wake": (), "channel": -1}
    return Start(**{field.name: known.get(field.name) for field in fields(Start)})


def starts(parent: WarmParent) -> int:
    with socket.socket() as channel:
        return parent.start(start(), channel, 1, 2)


def lines(*messages: Message) -> bytes:
    return b"".join(pack(message).encode() + b"\n" for message in messages)


def test_whoever_ends_while_another_one_starts_is_reported(wires: Wires) -> None:
    parent, there = wires
    there.sendall(lines(Exited(3, -9), Forked(7), Exited(4, 0), Exited(7, 1)))
    assert starts(parent) == 7
    assert parent.exited() == [Exited(3, -9), Exited(4, 0), Exited(7, 1)]
    assert parent.exited() == []


def test_messages_that_come_in_pieces_are_put_together(wires: Wires) -> None:
    parent, there = wires
    one, two = lines(Exited(3, 0)), lines(Exited(4, 2), Forked(7))
    there.sendall(one[:12])
    assert parent.exited() == []
    there.sendall(one[12:] + two[:7])
    assert parent.exited() == [Exited(3, 0)]
    there.sendall(two[7:])
    assert starts(parent) == 7
    assert parent.exited() == [Exited(4, 2)]


def test_a_parent_that_has_ended_is_an_error_that_says_so(wires: Wires) -> None:
    parent, there = wires
    there.close()
    with pytest.raises(WorkerFailedError, match="has ended"):
        parent.exited()
