"""What looks like a token or a password stays out of names and of the report, and files are their owner's."""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.observe import synthetic

from motet.confidential import is_secret, masked, masked_words
from motet.jobs import load_jobs_file, specs_from_each
from motet.observe import build_report
from motet.output.streams import JobLog
from motet.run_dir import RunDir, write_whole


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("token", "abc"), ("hf-token", "x"), ("hub_token", "x"), ("hubToken", "x"), ("api-key", "x"), ("apiKey", "x"),
        ("password", "x"), ("db_password", "x"), ("secret", "x"), ("x", "hf_abcdefgh"), ("x", "sk-abc123456"),
        ("x", "ghp_abcdefgh"), ("url", "postgres://me:word@host/db"),
    ],
)  # fmt: skip
def test_secrets(key: str, value: str) -> None:
    assert is_secret(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", "0.1"), ("max-tokens", "512"), ("tokenizer", "gpt2"), ("pad-token", "0"), ("key", "a"), ("author", "me"),
        ("x", "sk-learn"), ("x", "hf"), ("url", "https://host:80/path"), ("monkey", "x"), ("keyboard", "x"),
    ],
)  # fmt: skip
def test_no_secrets(key: str, value: str) -> None:
    assert not is_secret(key, value)


def test_names_made_from_arguments(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    each = ["--lr 0.1 --token abc1", "--lr 0.2 --token abc2 --hub hf_secretsecret"]
    assert [spec.name for spec in specs_from_each(tmp_path / "train.py", each)] == ["lr0.1", "lr0.2"]
    only = [spec.name for spec in specs_from_each(tmp_path / "train.py", ["--api-key=aa", "--api-key=bb"])]
    assert only == ["train-1", "train-2"]
    sweep = {"script": "train.py", "args": {"password": ["one", "two"], "lr": [1, 2]}}
    (tmp_path / "jobs.yaml").write_text(json.dumps({"sweep": sweep}))
    names = [spec.name for spec in load_jobs_file(tmp_path / "jobs.yaml")]
    assert names == ["lr1", "lr2", "lr1-2", "lr2-2"]


def test_commands_are_masked() -> None:
    words = ["motet", "run", "--each", "--lr 0.1 --token abc", "--password=x", "--hf-token", "y", "z", 3]
    assert masked_words(words) == [
        "motet", "run", "--each", "--lr 0.1 --token ***", "--password=***", "--hf-token", "***", "z", 3
    ]  # fmt: skip
    assert masked({"env": {"API_KEY": "x", "LR": "y"}, "n": 1}) == {"env": {"API_KEY": "***", "LR": "y"}, "n": 1}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--each '--password abc --lr 0.1'", "--each '--password *** --lr 0.1'"),
        ("--each '--lr 0.1 --password abc'", "--each '--lr 0.1 --password ***'"),
        ("--lr 0.1  --password 'my own word' x", "--lr 0.1  --password *** x"),
        ('--password="my own word" --lr 1', "--password=*** --lr 1"),
        ("--each " + shlex.quote("--lr 1 --password 'my own word'"), "--each '--lr 1 --password ***'"),
        ("it doesn't end --token abc", "it doesn't end --token ***"),
        ("a note, 'quoted and with no flag'", "a note, 'quoted and with no flag'"),
    ],
)
def test_arguments_in_one_text_are_masked(text: str, shown: str) -> None:
    assert masked({"where": text}) == {"where": shown}


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_files_are_their_owners(tmp_path: Path) -> None:
    run_dir = synthetic.record(tmp_path, synthetic.THREE)
    (run_dir / "run.json").unlink(missing_ok=True)
    command = ["motet", "run", "train.py", "--each", "--token verysecret"]
    RunDir.create(run_dir, {"command": command, "jobs": [{"name": "a", "arguments": ["--token", "verysecret"]}]})
    write_whole(run_dir / "results.json", (run_dir / "results.json").read_text())
    JobLog(run_dir / "log.txt").close()
    report = build_report(run_dir)
    assert "verysecret" not in report.read_text()
    assert stat.S_IMODE((run_dir / "run.json").stat().st_mode) == 0o600
    files = [path for path in run_dir.rglob("*") if path.is_file()]
    assert len(files) > 4
    assert [path for path in files if path.stat().st_mode & stat.S_IWOTH] == []
