from __future__ import annotations

import linecache
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from motet.jobs.script import JobExit, Script

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(source: str) -> Path:
        path = tmp_path / "train.py"
        path.write_text(source, encoding="utf-8")
        return path

    return write


@pytest.fixture(autouse=True)
def _everything_is_put_back() -> Iterator[None]:
    before = sys.argv, sys.path, sys.modules["__main__"]
    contents = list(sys.argv), list(sys.path)
    yield
    after = sys.argv, sys.path, sys.modules["__main__"]
    assert all(one is other for one, other in zip(before, after, strict=True))
    assert (sys.argv, sys.path) == contents


def run(path: Path, *argv: str) -> dict[str, object]:
    """Run the script, which says what it found in the list that it gets as an attribute of sys."""
    found: dict[str, object] = {}
    sys.found = found  # type: ignore[attr-defined]
    try:
        Script(path, argv)()
    finally:
        del sys.found  # type: ignore[attr-defined]
    return found


def test_a_script_finds_what_plain_python_would_give_it(write: Write) -> None:
    path = write(
        "'''What it is.'''\n"
        "import sys, __main__\n"
        "sys.found.update(argv=sys.argv, folder=sys.path[0], own=__main__.__dict__ is globals(), name=__name__)\n"
        "sys.found.update(file=__file__, spec=__spec__, package=__package__, cached=__cached__, doc=__doc__)\n"
        "sys.found.update(loader=type(__loader__).__name__, source=__loader__.get_source('__main__'))\n"
        "sys.found.update(annotations=__annotations__, names=sorted(globals()))\n"
    )
    found = run(path, "--lr", "0.1")
    assert found.pop("source") == path.read_text()
    expected = ["annotations", "builtins", "cached", "doc", "file", "loader", "main", "name", "package", "spec"]
    assert found.pop("names") == sorted([*(f"__{name}__" for name in expected), "sys"])
    assert found == {
        "argv": [str(path), "--lr", "0.1"],
        "folder": str(path.parent.resolve()),
        "own": True,
        "name": "__main__",
        "file": str(path),
        "spec": None,
        "package": None,
        "cached": None,
        "doc": "What it is.",
        "loader": "SourceFileLoader",
        "annotations": {},
    }


def test_what_a_script_defines_can_be_pickled_while_it_runs(write: Write) -> None:
    path = write(
        "import dataclasses, pickle, sys\n"
        "@dataclasses.dataclass\n"
        "class Point:\n"
        "    x: 'int'\n"
        "sys.found['copy'] = pickle.loads(pickle.dumps(Point(3))) == Point(3)\n"
        "sys.found['class'] = Point\n"
    )
    found = run(path)
    assert found["copy"] is True
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(found["class"])  # its __main__ has ended


def test_functions_outlive_their_script(write: Write) -> None:
    found = run(write("import sys\nvalue = 3\ndef read():\n    return value\nsys.found['read'] = read\n"))
    read = found["read"]
    assert callable(read)
    assert read() == 3


def test_modules_beside_the_script_are_found(write: Write, tmp_path: Path) -> None:
    (tmp_path / "beside_the_script.py").write_text("value = 7\n")
    try:
        found = run(write("import sys, beside_the_script\nsys.found['value'] = beside_the_script.value\n"))
    finally:
        sys.modules.pop("beside_the_script", None)
    assert found == {"value": 7}


def test_a_link_to_a_script_has_the_folder_of_the_script(write: Write, tmp_path: Path) -> None:
    path = write("import sys\nsys.found['folder'] = sys.path[0]\n")
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.py"
    link.symlink_to(path)
    assert run(link) == {"folder": str(tmp_path.resolve())}


def test_our_future_imports_are_not_the_scripts(write: Write) -> None:
    found = run(write("import sys\ndef f(x: 1 + 1): ...\nsys.found.update(f.__annotations__)\n"))
    assert found == {"x": 2}


@pytest.mark.parametrize(
    "ending", ["sys.exit()", "sys.exit(0)", "sys.exit(None)", "sys.exit(False)", "raise SystemExit"]
)
def test_a_good_exit_is_an_end(write: Write, ending: str) -> None:
    run(write(f"import sys\n{ending}\nsys.found['went'] = 'on'\n"))


@pytest.mark.parametrize(
    ("ending", "message"),
    [
        ("sys.exit(3)", "^train.py ended with exit status 3$"),
        ("sys.exit(True)", "^train.py ended with exit status 1$"),
        ("sys.exit('no data')", "^train.py ended itself: no data$"),
        ("sys.exit('')", "^train.py ended itself: $"),
    ],
)
def test_a_bad_exit_is_an_error(write: Write, ending: str, message: str) -> None:
    with pytest.raises(JobExit, match=message):
        run(write(f"import sys\n{ending}\n"))


def test_an_error_shows_the_scripts_own_line(write: Write) -> None:
    path = write("def step():\n    raise KeyError('lost')  # here\nstep()\n")
    linecache.clearcache()
    with pytest.raises(KeyError) as caught:
        run(path)
    text = "".join(traceback.format_exception(caught.value))
    assert f'File "{path}", line 2, in step' in text
    assert "# here" in text


def test_a_script_stays_the_same_when_the_directory_changes(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("import sys\nsys.found['file'] = __file__\n")
    monkeypatch.chdir(tmp_path)
    script = Script("train.py")
    monkeypatch.chdir("/")
    assert run(script.path) == {"file": str(tmp_path / "train.py")}


def test_a_script_that_does_not_compile(write: Write) -> None:
    with pytest.raises(SyntaxError, match="never closed"):
        Script(write("x = (\n")).compile()
