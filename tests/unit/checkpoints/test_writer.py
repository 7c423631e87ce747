"""The writer: copies at once, writes in the background, tells later."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from motet.checkpoints import Checkpoints, Writer
from motet.errors import CheckpointError

PARTS = ("shared", "worker-0")


@pytest.fixture
def writer() -> Iterator[Writer]:
    threads = threading.active_count()
    made = Writer()
    yield made
    made.close()
    assert threading.active_count() == threads, "no thread is left over"


class Gate:
    """Holds the background thread at a moment until it is opened."""

    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, moment: str) -> None:
        if moment == self.moment:
            self.reached.set()
            assert self.opened.wait(60)


def alone(directory: Path, job: str = "narrow", **options: Any) -> Checkpoints:
    return Checkpoints(directory, job, worker=0, num_workers=1, **options)


def both(value: object) -> dict[str, object]:
    return dict.fromkeys(PARTS, value)


def test_writes_and_commits(tmp_path: Path, writer: Writer) -> None:
    checkpoints = alone(tmp_path)
    writer.write(checkpoints, 5, both({"w": torch.ones(3)}))
    (written,) = writer.wait_until_idle()
    assert (written.job, written.turn, written.error, written.found) == ("narrow", 5, None, None)
    assert [part.name for part in written.parts] == list(PARTS)
    assert checkpoints.latest() is None
    writer.commit(checkpoints, 5, written.parts)
    (committed,) = writer.wait_until_idle()
    assert committed.found == checkpoints.latest() is not None
    assert writer.poll() == []


def test_the_training_goes_on_meanwhile(tmp_path: Path, writer: Writer) -> None:
    gate = Gate("shared begins")
    checkpoints = alone(tmp_path, at_moment=gate)
    weight = torch.ones(1000)
    writer.write(checkpoints, 1, both({"w": weight}))
    assert gate.reached.wait(60)
    assert writer.is_writing("narrow")
    assert writer.poll() == []
    weight.zero_()
    gate.opened.set()
    (written,) = writer.wait_until_idle()
    assert not writer.is_writing("narrow")
    found = checkpoints.commit(1, written.parts)
    assert torch.equal(checkpoints.load(found, "shared")["w"], torch.ones(1000))


def test_memory_is_used_again_only_after_it_was_written(tmp_path: Path, writer: Writer) -> None:
    gate = Gate("shared begins")
    checkpoints = alone(tmp_path, at_moment=gate)
    writer.write(checkpoints, 1, both({"w": torch.ones(1000)}))
    assert gate.reached.wait(60)
    second = threading.Thread(target=writer.write, args=(checkpoints, 2, both({"w": torch.zeros(1000)})))
    second.start()
    second.join(0.1)  # time to do what it must not: to overwrite what is not written yet
    assert writer.is_writing("narrow")
    gate.opened.set()
    second.join(60)
    first, later = writer.wait_until_idle()
    for done, value in ((first, torch.ones(1000)), (later, torch.zeros(1000))):
        found = checkpoints.commit(done.turn, done.parts)
        assert torch.equal(checkpoints.load(found, "shared")["w"], value)


def test_an_error_comes_out_of_poll_and_the_next_write_works(tmp_path: Path, writer: Writer) -> None:
    (tmp_path / "narrow").touch()
    checkpoints = alone(tmp_path)
    writer.write(checkpoints, 1, both({"w": 1}))
    (failed,) = writer.wait_until_idle()
    assert isinstance(failed.error, CheckpointError)
    assert failed.parts == ()
    (tmp_path / "narrow").unlink()
    writer.write(checkpoints, 2, both({"w": 1}))
    (written,) = writer.wait_until_idle()
    assert written.error is None
    writer.commit(checkpoints, 3, written.parts)
    (failed,) = writer.wait_until_idle()
    assert isinstance(failed.error, CheckpointError)


def test_an_error_of_our_own_is_not_lost(tmp_path: Path, writer: Writer) -> None:
    def fail(moment: str) -> None:
        raise ZeroDivisionError(moment)

    writer.write(alone(tmp_path, at_moment=fail), 1, both({}))
    (failed,) = writer.wait_until_idle()
    assert "ZeroDivisionError: shared begins" in str(failed.error)


def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path, writer: Writer) -> None:
    with pytest.raises(CheckpointError, match="hook is a"):
        writer.write(alone(tmp_path), 1, both({"hook": print}))
    assert writer.wait_until_idle() == []


def test_jobs_are_written_in_turn_and_forgotten(tmp_path: Path, writer: Writer) -> None:
    for turn in (1, 2):
        for job in ("narrow", "wide"):
            writer.write(alone(tmp_path, job), turn, both({"w": torch.full((5,), float(turn))}))
    writer.forget("narrow")
    assert not writer.is_writing("narrow")
    done = writer.close()
    assert [(each.job, each.turn) for each in done] == [("narrow", 1), ("wide", 1), ("narrow", 2), ("wide", 2)]
