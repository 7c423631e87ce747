"""Whose line it is."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from motet import handle
from motet.handle import JobHandle
from motet.output.per_job import JobOutput


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_what_a_library_writes_to_another_jobs_stream_is_the_present_jobs(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    out, err = io.StringIO(), io.StringIO()
    output = JobOutput(0, lambda name: place / name, everybody=False, streams=(out, err))
    output.start("a")
    held = sys.stderr  # by a log handler of a library that job a was the first to import
    output.start("b")
    for name in ("a", "b"):
        handle.set_current(JobHandle(name))
        print(f"in {name}", file=held)
    handle.set_current(JobHandle("b"))
    output.end("a")
    print("late in b", file=held)
    output.end("b")
    handle.set_current(None)
    print("afterwards", file=held)
    assert err.getvalue().splitlines() == ["[a] in a", "[b] in b", "[b] late in b", "afterwards"]
    assert out.getvalue() == ""
    assert (place / "a" / "log.txt").read_text() == "in a\n"
    assert (place / "b" / "log.txt").read_text() == "in b\nlate in b\n"
