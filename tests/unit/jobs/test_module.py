"""A module as a job finds what ``python -m`` would give it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from motet.errors import UsageError
from motet.jobs import JobSpec, check_specs, load_jobs_file, specs_from_each
from motet.jobs.script import JobExit, ModuleScript

LOOKS = """
import json, os, sys
from . import helper
from .helper import NAME

found = {
    "name": __name__, "package": __package__, "spec": __spec__.name, "origin": __spec__.origin, "file": __file__,
    "argv": sys.argv, "first": sys.path[0], "main": sys.modules["__main__"].__dict__ is globals(), "helper": NAME,
    "loader": type(__loader__).__name__, "names": sorted(name for name in globals() if name.startswith("__")),
    "imported": "trainers.train" in sys.modules,
}
with open("found.json", "w") as file:
    json.dump(found, file)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    package = tmp_path / "trainers"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("NAME = __name__\n")
    (package / "train.py").write_text(LOOKS)
    (package / "exits.py").write_text("import sys; sys.exit(int(sys.argv[1]))\n")
    (package / "wrong.py").write_text("def f(:\n")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "__main__.py").write_text(
        LOOKS.replace("from . import helper", "").replace(".helper", "trainers.helper")
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("import no_such_thing\n")
    (tmp_path / "broken" / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    before = sys.argv, sys.path, sys.modules["__main__"]
    yield tmp_path
    after = sys.argv, sys.path, sys.modules["__main__"]
    assert all(one is other for one, other in zip(before, after, strict=True))
    for name in [name for name in sys.modules if name.partition(".")[0] in ("trainers", "whole", "broken")]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["trainers.train", "whole"])
def test_a_module_finds_what_python_would_give_it(place: Path, name: str) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-m", name, "--lr", "0.1"], check=True, env=environment, cwd=place)
    expected = json.loads(Path("found.json").read_text())
    Path("found.json").unlink()
    ModuleScript(name, ["--lr", "0.1"])()
    assert json.loads(Path("found.json").read_text()) == expected
    assert (
        expected["argv"][0]
        == expected["file"]
        == str(place / f"{name.replace('.', '/')}.py").replace("whole.py", "whole/__main__.py")
    )


def test_how_it_ends(place: Path) -> None:
    ModuleScript("trainers.exits", ["0"])()
    with pytest.raises(JobExit, match=r"trainers\.exits ended with exit status 3"):
        ModuleScript("trainers.exits", ["3"])()


def test_from_the_command_line_and_from_a_jobs_file(place: Path) -> None:
    specs = specs_from_each("trainers.train", ["--lr 1", "--lr 2"], module=True)
    assert [(spec.name, spec.kind, spec.target, spec.arguments) for spec in specs] == [
        ("lr1", "module", "trainers.train", ["--lr", "1"]),
        ("lr2", "module", "trainers.train", ["--lr", "2"]),
    ]
    assert [spec.name for spec in specs_from_each("trainers.__main__", ["a", "a"], module=True)] == [
        "trainers-1",
        "trainers-2",
    ]
    (place / "jobs.yaml").write_text(
        "jobs:\n  one: {module: trainers.train, args: {lr: 1}}\n"
        "sweep:\n- {module: trainers.train, args: {lr: [3, 4]}}\n- {script: trainers/train.py, args: {lr: [3]}}\n"
    )
    loaded = load_jobs_file("jobs.yaml")
    assert [(spec.name, spec.kind) for spec in loaded] == [
        ("one", "module"),
        ("train-lr3", "module"),
        ("train-lr4", "module"),
        ("train-lr3-2", "script"),
    ]
    assert loaded[0].paths == (str(place),)
    for spec in (*specs, *loaded):
        assert JobSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    check_specs([*specs, *loaded])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trainers.trian", ["there is no module 'trainers.trian'", "did you mean 'train'"]),
        ("no_such_package.train", ["there is no module 'no_such_package'"]),
        ("trainers", ["'trainers' is a package without a __main__ module, and cannot be run"]),
        ("trainers.wrong", ["trainers.wrong does not compile", "SyntaxError", "line 1"]),
        ("broken.train", ["importing the packages of broken.train failed", "no_such_thing", "broken/__init__.py"]),
        ("sys", ["'sys' has no Python code, and cannot be run"]),
    ],
)
def test_what_cannot_be_run_is_reported_before_anything_starts(name: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        check_specs(specs_from_each(name, [""], module=True))
    for word in words:
        assert word in str(error.value)
    assert "Traceback" not in str(error.value)


@pytest.mark.parametrize("name", ["trainers/train.py", "./trainers/train", "trainers.train.py"])
def test_a_path_is_no_module(name: str) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'trainers\.train'"):
        specs_from_each(name, [""], module=True)


def test_a_module_takes_no_keyword_arguments(place: Path) -> None:
    (place / "jobs.yaml").write_text("jobs:\n  one: {module: trainers.train, with: {lr: 1}}\n")
    with pytest.raises(UsageError, match="with does not go with module; use args"):
        load_jobs_file("jobs.yaml")
    (place / "jobs.yaml").write_text("jobs:\n  one: {module: trainers.train, script: train.py}\n")
    with pytest.raises(UsageError, match="both script and module"):
        load_jobs_file("jobs.yaml")
