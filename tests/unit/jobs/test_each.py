from __future__ import annotations

from pathlib import Path

import pytest

from motet.errors import UsageError
from motet.jobs.each import specs_from_each
from motet.jobs.spec import JobSpec


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_is_a_job(folder: Path) -> None:
    script = str(folder / "train.py")
    assert specs_from_each("train.py", ["--lr 0.1", "--lr 0.01 --out '{job_dir}/a b'"]) == [
        JobSpec("lr0.1", "script", script, ["--lr", "0.1"], where="--each '--lr 0.1'"),
        JobSpec(
            "lr0.01-out=job_dir-a-b",
            "script",
            script,
            ["--lr", "0.01", "--out", "{job_dir}/a b"],
            where="--each \"--lr 0.01 --out '{job_dir}/a b'\"",
        ),
    ]


@pytest.mark.parametrize(
    ("each", "names"),
    [
        (["--lr 0.1 --width 8", "--lr 0.01 --width 8"], ["lr0.1", "lr0.01"]),
        (["--lr=0.1 --opt adam", "--lr=0.1 --opt sgd"], ["opt=adam", "opt=sgd"]),
        (["-n 1 --amp", "-n 2"], ["n1-amp", "n2"]),
        (["--bias 1", "--bias -1", "--bias -.5"], ["bias1", "bias=-1", "bias=-.5"]),
        (["--betas 0.9 0.99", "--betas 0.8 0.99"], ["betas0.9+0.99", "betas0.8+0.99"]),
        (["adam", "sgd"], ["adam", "sgd"]),
        (["--config a/b.yaml", "--config a/c.yaml"], ["config=a-b.yaml", "config=a-c.yaml"]),
        (["model.lr=0.1 +seed=1 data=a", "model.lr=0.2 +seed=1 data=a"], ["model.lr0.1", "model.lr0.2"]),
        (["fit --lr 0.1 model.width=8", "fit --lr 0.1 model.width=16"], ["model.width8", "model.width16"]),
        (["--amp", ""], ["train-1", "train-2"]),
        (["--lr 0.1", "--lr 0.1"], ["train-1", "train-2"]),
        (["--x ä", "--x ö", "--x ü"], ["train-1", "train-2", "train-3"]),
        (["--lr 0.1"], ["train-1"]),
        ([""], ["train-1"]),
    ],
)
def test_names_are_what_varies_or_numbers(each: list[str], names: list[str]) -> None:
    assert [spec.name for spec in specs_from_each("train.py", each)] == names


def test_long_and_strange_script_names_are_numbered_too(folder: Path) -> None:
    for stem, name in {"x" * 200: "x" * 90, "äö": "job", "_my train_": "my-train_"}.items():
        (folder / f"{stem}.py").write_text("")
        [spec] = specs_from_each(f"{stem}.py", [""])
        assert spec.name == f"{name}-1"


@pytest.mark.parametrize(
    ("script", "each", "message"),
    [
        ("train.py", ["--name 'x"], r'^--each "--name \'x" cannot be split into words: No closing quotation'),
        ("train.py", ["\\"], r"cannot be split into words: No escaped character"),
        ("train.py", [], r'^train.py: no jobs; give --each "ARGUMENTS" for each'),
        ("trian.py", [""], r"there is no script 'trian.py' .*; did you mean 'train.py'\?"),
        (".", [""], r"script '.' is a folder"),
    ],
)
def test_errors(script: str, each: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        specs_from_each(script, each)
