"""A process that is killed while it writes leaves a whole checkpoint: the new one or the one before."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.checkpoints.test_files import check_good, names, workers, write


def in_a_child(body: Callable[[], object]) -> int:
    """Run ``body`` in a forked process and return the process id. It starts no torch threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork where threads exist (Python 3.12)
        child = os.fork()
    if child == 0:
        try:
            body()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def ended_by(child: int) -> int | None:
    """Wait for a child; return the signal that ended it, None if it ended well."""
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None


def moments(directory: Path) -> list[str]:
    """Return the moments of writing a third checkpoint, in order."""
    seen: list[str] = []
    gang = workers(directory, at_moment=seen.append)
    write(gang, 1)
    write(gang, 2)
    seen.clear()
    write(gang, 3)
    return seen


MOMENTS = 17  # asserted below: parametrize needs it before there is a folder to write to


def test_moments_are_all_there(tmp_path: Path) -> None:
    seen = moments(tmp_path)
    assert len(seen) == MOMENTS + 1
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("index", range(MOMENTS + 1))
def test_killed_at_each_moment(tmp_path: Path, index: int) -> None:
    moment = moments(tmp_path / "rehearsal")[index]
    gang = workers(tmp_path)
    write(gang, 1)
    write(gang, 2)

    def kill(at: str) -> None:
        if at == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended_by(in_a_child(lambda: write(workers(tmp_path, at_moment=kill), 3))) == signal.SIGKILL
    committed = index >= MOMENTS - 2
    check_good(gang[0], gang[0].latest(), 3 if committed else 2)
    assert gang[0].problems == ()
    gang[0].remove_leftovers()
    assert not [name for name in names(gang[0]) if not name.startswith("turn-")]
    write(gang, 3)
    check_good(gang[0], gang[0].latest(), 3)
    assert len(names(gang[0])) == 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_killed_in_the_middle_of_a_file(tmp_path: Path, share: float) -> None:
    size = 40_000_000
    large: dict[str, Any] = {"weight": torch.zeros(size // 4)}
    gang = workers(tmp_path)
    write(gang, 2)
    child = in_a_child(lambda: workers(tmp_path)[0].write_part(3, "shared", large))
    unfinished = gang[0].directory / ".writing-turn-00000003-0" / f"shared.{child}"
    while not unfinished.exists() or unfinished.stat().st_size < share * size:
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it could be killed"
    os.kill(child, signal.SIGKILL)
    assert ended_by(child) == signal.SIGKILL
    check_good(gang[0], gang[0].latest(), 2)
    gang[0].remove_leftovers()
    assert names(gang[0]) == ["turn-00000002"]


@pytest.mark.parametrize("milliseconds", range(3, 43, 4))
def test_killed_at_any_time(tmp_path: Path, milliseconds: int) -> None:
    gang = workers(tmp_path)
    write(gang, 1)

    def go_on_for_ever() -> None:
        # The signal's default action: the kernel ends the process, and no more of its code runs.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
        child = workers(tmp_path)
        turn = 1
        while True:
            turn += 1
            write(child, turn)
            os.write(report, turn.to_bytes(4, "big"))

    reading, report = os.pipe()
    assert ended_by(in_a_child(go_on_for_ever)) == signal.SIGALRM
    os.close(report)
    with open(reading, "rb") as reported:
        last = max([1, *(int.from_bytes(turn, "big") for turn in iter(lambda: reported.read(4), b""))])
    found = gang[0].latest()
    assert found is not None
    assert found.turn in (last, last + 1), "what was committed stays"
    check_good(gang[0], found, found.turn)
    assert gang[0].problems == ()
    gang[0].remove_leftovers()
    assert all(name.startswith("turn-") for name in names(gang[0]))
