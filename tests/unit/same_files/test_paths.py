"""Which paths matter, and what arguments say of where a job writes."""

from __future__ import annotations

import functools
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from motet.jobs import Job, Script
from motet.same_files.ledger import MOST_PATHS, Ledger
from motet.same_files.outputs import GivenOutputs, outputs_of
from motet.same_files.paths import MAX_ARGUMENTS, Places, arguments_of, path_of_database


def test_one_name_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "latest").symlink_to("runs")
    monkeypatch.chdir(tmp_path)
    places = Places(None)
    best = str(tmp_path / "runs" / "best.pt")
    folder = os.open("latest", os.O_RDONLY)
    try:
        names = [places.resolve(name) for name in ("runs/best.pt", Path("latest/../runs/best.pt"), b"latest/best.pt")]
        assert [*names, places.resolve("best.pt", folder), places.resolve("best.pt", "runs")] == [best] * 5
        assert places.resolve(folder) is None
    finally:
        os.close(folder)
    assert places.resolve("latest") == str(tmp_path / "runs")
    assert places.resolve("latest", follow=False) == str(tmp_path / "latest")


@pytest.mark.parametrize(
    "path",
    [
        *("/dev/null", "/proc/self/comm", "~/.cache/huggingface/x.json", "$HF_HOME/hub/x", "a/__pycache__/b.pyc"),
        *("data.lock", "/tmp/torchinductor_me/x.py", "mlruns/0/meta.yaml", "wandb/debug.log", "$RUN/metrics.jsonl"),
        "$RUN/state/worker-0",
    ],
)
def test_what_nobody_minds(tmp_path: Path, path: str) -> None:
    environment = {"HF_HOME": str(tmp_path / "hf"), "RUN": str(tmp_path / "run")}
    place = Places(tmp_path / "run", environment)
    for name, value in environment.items():
        path = path.replace(f"${name}", value)
    assert place.resolve(os.path.expanduser(path)) is None
    assert place.resolve(tmp_path / "run" / "jobs" / "a" / "best.pt") is not None


def test_event_files_of_one_folder_are_one_place(tmp_path: Path) -> None:
    name = "events.out.tfevents.1764313482.host.4711.0"
    assert Places(None).resolve(tmp_path / name) == str(tmp_path)


@pytest.mark.parametrize(
    ("database", "path"),
    [
        *(("a.db", "a.db"), (b"a.db", "a.db"), (":memory:", None), ("", None), ("file::memory:?mode=memory", None)),
        *(("file:a.db?mode=ro", None), ("file:a.db?immutable=1", None), ("file:a%20b.db?mode=rwc", "a b.db")),
        *(("file:///tmp/a.db", "/tmp/a.db"), (None, None)),
    ],
)
def test_the_file_of_a_database(database: Any, path: str | None) -> None:
    assert path_of_database(database) == path


def test_arguments_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    words = ["cp", "-v", "a b.pt", b"--to=c.pt", "x" * 2000]
    assert set(arguments_of(words, str(tmp_path))) == {"cp", "a b.pt", "a", "b.pt", "c.pt"}
    assert "best.txt" in set(arguments_of("echo 1>'best.txt'", str(tmp_path)))
    assert "best.txt" in set(arguments_of(["sh", "-c", "sleep 1; echo 1 >best.txt"], str(tmp_path)))
    assert "best.txt" in set(arguments_of(["python", "-c", "open('best.txt', 'w').write('1')"], str(tmp_path)))
    assert "out/best.txt" in set(arguments_of(["cp", "draft/best.txt", "out"], str(tmp_path)))
    assert "out/best.txt" in set(arguments_of("cd out && echo 1 > best.txt", str(tmp_path)))
    assert list(arguments_of(7, str(tmp_path))) == []
    assert len(list(arguments_of(" ".join(map(str, range(10_000))), str(tmp_path)))) <= MAX_ARGUMENTS


def test_the_ledger() -> None:
    ledger = Ledger()
    assert ledger.writes("a", "/x/best.pt") is None
    assert ledger.writes("a", "/x/best.pt") is None
    clash = ledger.writes("b", "/x/best.pt")
    assert clash is not None
    assert (clash.job, clash.others) == ("b", ("a",))
    ledger.appends("a", "/x/log")
    ledger.appends("b", "/x/log")
    assert ledger.removes("c", "/x/none") is None
    removed = ledger.removes("c", "/x")
    assert removed is not None
    assert set(removed.others) == {"a", "b"}
    assert ledger.writes("b", "/x/best.pt") is None, "what is gone is nobody's"


def test_a_folder_that_is_renamed_takes_its_files_with_it() -> None:
    ledger = Ledger()
    ledger.writes("a", "/draft/one")
    ledger.writes("a", "/drafty")
    assert ledger.renames("a", "/draft", "/kept") == []
    assert ledger.writes("b", "/draft/one") is None
    clash = ledger.writes("b", "/kept/one")
    assert clash is not None
    assert clash.others == ("a",)


def test_the_ledger_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("motet.same_files.ledger.MOST_PATHS", 10)
    assert MOST_PATHS > 10
    ledger = Ledger()
    for number in range(100):
        ledger.writes("a", f"/x/{number}")
    assert ledger.writes("b", "/x/0") is None
    assert ledger.writes("b", "/x/99") is not None


def script(folder: Path, argv: list[str]) -> Script:
    (folder / "train.py").touch()
    return Script(folder / "train.py", argv)


@pytest.mark.parametrize(
    "argument",
    [
        *("--output_dir out", "--out=out/best.pt", "--save-to best.pt", "--logdir tb", "--log_dir tb"),
        *("--ckpt_path last.ckpt", "--checkpoint-dir c", "--work-dir w", "hydra.run.dir=out", "output_dir=out"),
        *("--default_root_dir .", "--trainer.logger.save_dir logs", "--results results.json", "--outputDir out"),
    ],
)
def test_the_same_output_is_reported(tmp_path: Path, argument: str) -> None:
    report = GivenOutputs()
    for name in ("a", "b", "c"):
        report.note(Job(name, script(tmp_path, ["--lr", name, *argument.split()])))
    [text] = report.take()
    assert re.match(r"jobs 'a', 'b' and 'c' were told to write to the same place, /\S+ \(\S+\)\. Give", text)
    assert report.take() == [], "once"


@pytest.mark.parametrize(
    "argument",
    [
        *("--data_dir data", "--config c.yaml", "--model_name_or_path gpt2", "--output_dim 10", "--out_features 10"),
        *("--logging_steps 10", "--save_strategy epoch", "--save_total_limit 2", "--log_level info", "--log true"),
        *("--resume_from_checkpoint c", "--dropout 0.1", "--input_dir x", "--overwrite_output_dir", "--save 5"),
        *("--train_file a.csv", "--pretrained_checkpoint x.pt", "--checkpoint there.pt", "--out s3://bucket/x"),
    ],
)
def test_what_is_no_output_is_not(tmp_path: Path, argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.pt").touch()
    report = GivenOutputs()
    for name in ("a", "b"):
        report.note(Job(name, script(tmp_path, argument.split())))
    assert report.take() == []


def test_outputs_of_functions_and_of_folders_of_their_own(tmp_path: Path) -> None:
    report = GivenOutputs()
    for name in ("a", "b"):
        report.note(Job(name, script(tmp_path, ["--output_dir", "out"]), cwd=str(tmp_path / name)))
    report.note(Job("other", functools.partial(shutil.copytree, output_dir="out")))
    assert report.take() == []
    report.note(Job("another", functools.partial(shutil.copytree, output_dir="out")))
    [text] = report.take()
    assert text.startswith(
        f"jobs 'other' and 'another' were told to write to the same place, {Path.cwd() / 'out'} (output_dir). "
    )
    assert list(outputs_of(Job("c", functools.partial(shutil.copytree, lr=1, save_to=tmp_path / "x")))) == [
        ("save_to", str(tmp_path / "x"))
    ]
