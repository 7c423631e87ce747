"""A run directory that somebody has edited, or something has damaged: one message, whatever it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from motet.cli import main, start

JOB = {"name": "a", "kind": "script", "target": "train.py", "arguments": [], "turns": None}
ANYTHING: list[Any] = [
    float("nan"), float("inf"), -1, -0.5, 0, 10**400, "x", None, [], {}, True, [[]], "\0", {"a": [float("nan")]}
]  # fmt: skip
TEXTS = {
    "deep": "[" * 100_000,
    "deep inside": '{"format": 1, "jobs": ' + "[" * 3000 + "]" * 3000 + "}",
    "long": '{"format": 1, "jobs": [' + ",".join(["1"] * 100_000) + "]}",
    "nothing": "",
    "a number": "1" * 6000,
    "zeros": "\0",
}


class Started(Exception):
    """Workers would be started now: the description is accepted."""


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def started(*arguments: object, **options: object) -> None:
        raise Started

    monkeypatch.setattr(start, "run_workers", started)
    monkeypatch.setattr(start, "check_specs", lambda *arguments, **options: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("")
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def tried(command: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run a command, which may do its work, or say what is wrong in a few lines."""
    try:
        status = main([command, str(run_dir)])
    except Started:
        status = 0
    _, err = capsys.readouterr()
    assert status in (0, 2), err
    assert len(err.splitlines()) <= 4, err
    assert len(err) < 2000


@pytest.mark.parametrize("command", ["resume", "report"])
def test_any_value_of_any_key(command: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"format": 1, "id": "0", "directory": str(run_dir.parent), "jobs": [JOB]}
    options = ("order", "at_once", "seed", "timeout_seconds", "stop_at_unix_time", "max_job_failures", "metric")
    for value in ANYTHING:
        for key in (*whole, *options):
            (run_dir / "run.json").write_text(json.dumps({**whole, key: value}))
            tried(command, run_dir, capsys)
        for key in (*JOB, "cwd", "env", "paths", "compress"):
            (run_dir / "run.json").write_text(json.dumps({**whole, "jobs": [{**JOB, key: value}]}))
            tried(command, run_dir, capsys)


@pytest.mark.parametrize("command", ["resume", "report"])
@pytest.mark.parametrize("file", ["run.json", "results.json", "jobs/a/ended.json"])
def test_any_text(command: str, file: str, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = {"format": 1, "id": "0", "directory": str(run_dir.parent), "jobs": [JOB]}
    (run_dir / "jobs" / "a").mkdir(parents=True)
    for text in TEXTS.values():
        (run_dir / "run.json").write_text(json.dumps(whole))
        (run_dir / file).write_text(text)
        tried(command, run_dir, capsys)
