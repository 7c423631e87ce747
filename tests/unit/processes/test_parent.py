"""What the warm parent says is heard to the last word, however much of it comes at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from motet.errors import WorkerFailedError
from motet.processes.messages import Start
from motet.processes.parent import Gone, WarmParent

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


def test_who_ends_while_another_one_starts_is_heard_of(wires: Wires) -> None:
    parent, there = wires
    there.sendall(b'{"gone": 3, "status": -9}\n{"started": 7}\n{"gone": 4, "status": 0}\n{"gone": 7, "status": 1}\n')
    assert starts(parent) == 7
    assert parent.gone() == [Gone(3, -9), Gone(4, 0), Gone(7, 1)]
    assert parent.gone() == []


def test_words_that_come_in_pieces_are_put_together(wires: Wires) -> None:
    parent, there = wires
    there.sendall(b'{"gone": 3, "sta')
    assert parent.gone() == []
    there.sendall(b'tus": 0}\n{"gone"')
    assert parent.gone() == [Gone(3, 0)]
    there.sendall(b': 4, "status": 2}\n{"started": 7}\n')
    assert starts(parent) == 7
    assert parent.gone() == [Gone(4, 2)]


def test_a_parent_that_has_ended_is_told_of(wires: Wires) -> None:
    parent, there = wires
    there.close()
    with pytest.raises(WorkerFailedError, match="has ended"):
        parent.gone()
