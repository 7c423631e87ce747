"""Scripts keep their ``__main__`` and the modules from their own folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from greenlet import getcurrent, greenlet

from motet import isolation
from motet.jobs import Job
from motet.jobs.script import Script
from motet.running import run as run_all

TURNS: list[object] = []


@pytest.fixture(autouse=True)
def _everything_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    TURNS.clear()
    this = ModuleType("told")
    this.turns = TURNS  # type: ignore[attr-defined]
    this.end_turn = getcurrent().switch  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "told", this)
    before = isolation.take_all()
    modules = set(sys.modules)
    yield
    isolation.put_all(before)
    for name in set(sys.modules) - modules:
        if name.startswith(("clash", "helper")):
            del sys.modules[name]


def run(*scripts: Script, prepare: bool = True) -> None:
    """Run scripts by turns, as the pipeline does."""
    outside = isolation.take_all()
    saved = {}
    for script in scripts:
        job = greenlet(script)
        saved[job] = outside.copy()
        if prepare:
            isolation.prepare_script(saved[job], script.path)
    while saved:
        for job in list(saved):
            outside = isolation.exchange(saved[job])
            try:
                job.switch()
            finally:
                saved[job] = isolation.exchange(outside)
            if job.dead:
                del saved[job]


SCRIPT = """
import sys
import told
import {helper}
{helper}.value.append(sys.argv[1])
state = sys.argv[1]
for turn in range(3):
    told.end_turn()
    import __main__
    import {helper} as again
    assert __main__.state == sys.argv[1] == state
    assert again is {helper} and again.value == [sys.argv[1]], again.value
    told.turns.append(state)
"""


def make(folder: Path, helper: str = "clash_helper", text: str = "value = []\n") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{helper}.py").write_text(text)
    (folder / "train.py").write_text(SCRIPT.replace("{helper}", helper))
    return folder / "train.py"


@pytest.mark.parametrize("prepare", [True, False])
def test_two_scripts_with_a_helper_of_the_same_name(tmp_path: Path, prepare: bool) -> None:
    main = sys.modules["__main__"]
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    run(Script(one, ["a"]), Script(two, ["b"]), prepare=prepare)
    assert TURNS == ["a", "b"] * 3
    assert "clash_helper" not in sys.modules
    assert sys.modules["__main__"] is main


@pytest.mark.parametrize("prepare", [True, False])
def test_one_script_twice(tmp_path: Path, prepare: bool) -> None:
    path = make(tmp_path)
    run(Script(path, ["a"]), Script(path, ["b"]), prepare=prepare)
    assert TURNS == ["a", "b"] * 3


@pytest.mark.parametrize("init", [True, False])
def test_packages_with_and_without_an_init(tmp_path: Path, init: bool) -> None:
    package = tmp_path / "clash_package"
    package.mkdir()
    if init:
        (package / "__init__.py").write_text("")
    (package / "settings.py").write_text("value = None\n")
    (package / "late.py").write_text("value = None\n")
    (tmp_path / "train.py").write_text(
        "import sys, told\n"
        "from clash_package import settings\n"
        "settings.value = sys.argv[1]\n"
        "told.end_turn()\n"
        "import clash_package.late as late\n"
        "assert late.value is None\n"
        "late.value = sys.argv[1]\n"
        "told.end_turn()\n"
        "import clash_package.settings as again, clash_package.late as late_again\n"
        "assert again is settings and again.value == late_again.value == sys.argv[1]\n"
        "told.turns.append(sys.argv[1])\n"
    )
    run(Script(tmp_path / "train.py", ["a"]), Script(tmp_path / "train.py", ["b"]))
    assert TURNS == ["a", "b"]
    assert not [name for name in sys.modules if name.startswith("clash_package")]


def test_libraries_and_packages_in_use_are_everyones(tmp_path: Path) -> None:
    """A part that one script is the first to need must not be loaded again for the next."""
    library = tmp_path / "venv" / "lib" / "site-packages"
    library.mkdir(parents=True)
    (library / "clash_installed.py").write_text("loads = []\n")
    (tmp_path / "train.py").write_text(
        "import sys, os, told\n"
        "sys.path.insert(1, os.path.join(os.path.dirname(__file__), 'venv/lib/site-packages'))\n"
        "import clash_installed, tabnanny, torch.utils.benchmark\n"
        "clash_installed.loads.append(sys.argv[1])\n"
        "told.turns.append((clash_installed, tabnanny, torch.utils.benchmark))\n"
        "told.end_turn()\n"
    )
    run(Script(tmp_path / "train.py", ["a"]), Script(tmp_path / "train.py", ["b"]))
    assert TURNS[0] == TURNS[1]
    assert sys.modules["clash_installed"].loads == ["a", "b"]


def test_what_a_caller_has_loaded_is_hidden_from_a_script_with_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "of_caller", text="value = []\n")
    monkeypatch.syspath_prepend(str(tmp_path / "of_caller"))
    import clash_helper  # type: ignore[import-not-found]

    one = make(tmp_path / "one")
    run(Script(one, ["a"]), Script(one, ["b"]), Script(tmp_path / "of_caller" / "train.py", ["c"]))
    assert TURNS == ["a", "b", "c"] * 3
    assert sys.modules["clash_helper"] is clash_helper
    assert clash_helper.value == []


def test_functions_share_modules_with_their_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    outside = isolation.take_all()
    job, other = outside.copy(), outside.copy()
    outside = isolation.exchange(job)
    import clash_helper

    job = isolation.exchange(other)
    assert sys.modules["clash_helper"] is clash_helper
    isolation.put_all(outside)
    assert sys.modules["clash_helper"] is clash_helper


def test_a_script_that_fails_takes_nothing_along(tmp_path: Path) -> None:
    path = make(tmp_path)
    path.write_text("import clash_helper, told\ntold.end_turn()\n1 // 0\n")
    with pytest.raises(ZeroDivisionError):
        run(Script(path))
    assert "clash_helper" not in sys.modules


def test_modules_that_a_script_deletes_or_replaces(tmp_path: Path) -> None:
    path = make(tmp_path)
    path.write_text(
        "import clash_helper, sys, told, importlib\n"
        "first = clash_helper\n"
        "told.end_turn()\n"
        "del sys.modules['clash_helper']\n"
        "told.end_turn()\n"
        "assert 'clash_helper' not in sys.modules\n"
        "import clash_helper\n"
        "assert clash_helper is not first\n"
        "second = clash_helper\n"
        "told.end_turn()\n"
        "assert sys.modules['clash_helper'] is second\n"
        "told.turns.append('done')\n"
    )
    run(Script(path), Script(path))
    assert TURNS == ["done", "done"]


def test_what_a_script_imports_in_its_last_turn_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "clash_late.py").write_text("seen = []\n")
    script = tmp_path / "train.py"
    lines = (
        "import pathlib, sys",
        f"sys.path.insert(0, {str(tmp_path / 'lib')!r})",
        "import clash_late",
        "clash_late.seen.append(sys.argv[1])",
        f"pathlib.Path({str(tmp_path)!r}, sys.argv[1]).write_text(str(clash_late.seen))",
    )
    script.write_text("\n".join(lines))
    run_all([Job(name, Script(script, [name])) for name in ("a", "b")], at_once=1)
    assert (tmp_path / "a").read_text() == "['a']"
    assert (tmp_path / "b").read_text() == "['b']"
    assert "clash_late" not in sys.modules


def test_a_script_may_remove_the_folder_that_it_works_in(tmp_path: Path) -> None:
    (tmp_path / "clash_gone.py").write_text("")
    (tmp_path / "scratch").mkdir()
    script = tmp_path / "train.py"
    lines = (
        "import os, sys",
        f"os.chdir({str(tmp_path / 'scratch')!r})",
        f"os.rmdir({str(tmp_path / 'scratch')!r})",
        "import clash_gone",
        "sys.path.insert(0, '')",
    )
    script.write_text("\n".join(lines))
    outer = list(sys.path)
    results = run_all([Job("a", Script(script))])
    assert results["a"].status == "finished", results["a"].error
    assert sys.path == outer
