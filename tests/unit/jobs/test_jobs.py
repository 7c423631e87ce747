from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from motet.errors import CheckpointError, UsageError
from motet.jobs import Job, JobSpec, Script, check_specs, load_jobs_file
from motet.jobs.check import _ending, _read_report
from motet.jobs.check_child import problem_of

FUNCTIONS = """
def train(width, depth=2, *, lr=0.1):
    return (width, depth, lr)
def anything(**options):
    return options
def positional(data, /, width=1): ...
def nothing(): ...
class Trainer:
    def __init__(self, width): ...
    @staticmethod
    def fit(width): ...
value = 3
"""


def call(target: str, folder: Path | str, name: str = "a", **arguments: object) -> JobSpec:
    return JobSpec(name, "call", target, arguments, paths=(str(folder),))


# Job and JobSpec


def test_jobs_are_checked_when_they_are_made() -> None:
    assert Job("a", print).turns is None
    with pytest.raises(UsageError, match="cannot name a job"):
        Job("../a", print)
    with pytest.raises(UsageError, match="job 'a': 3 is not callable"):
        Job("a", 3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="job 'a': turns must be a positive integer, not 0"):
        Job("a", print, 0)


@pytest.mark.parametrize(
    "spec",
    [
        JobSpec("a", "call", "m:f", {"x": [1, {"y": None}]}, 3, ("/folder",), "jobs.yaml:3"),
        JobSpec("b", "script", "/folder/train.py", ["--lr", "0.1"]),
    ],
)
def test_specs_are_json(spec: JobSpec) -> None:
    assert JobSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../a"},
        {"name": 3},
        {"kind": "other"},
        {"arguments": {}},
        {"arguments": [1]},
        {"target": None},
        {"turns": 0},
        {"paths": 3},
        {"paths": [3]},
        {"more": 1},
    ],
)
def test_damaged_specs_are_reported(change: dict[str, object]) -> None:
    data = JobSpec("b", "script", "/folder/train.py", ["--lr"]).to_json()
    with pytest.raises(CheckpointError, match="damaged"):
        JobSpec.from_json(data | change)


def test_placeholders_are_filled_in_and_nothing_else() -> None:
    script = JobSpec("lr0.1", "script", "train.py", ["--out", "{job_dir}/{name}.pt", "{other} {} {{name}}"])
    assert script.filled("/runs/{name}").arguments == ["--out", "/runs/{name}/lr0.1.pt", "{other} {} {lr0.1}"]
    function = JobSpec("b", "call", "m:f", {"out": ["{name}"], "more": {"{name}": "{name}"}, "n": 3})
    assert function.filled(Path("/runs")).arguments == {"out": ["b"], "more": {"{name}": "b"}, "n": 3}
    assert function.arguments == {"out": ["{name}"], "more": {"{name}": "{name}"}, "n": 3}


def test_a_function_is_imported_from_the_specs_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "functions_of_a_job.py").write_text(FUNCTIONS)
    spec = call("functions_of_a_job:train", tmp_path, width=3, lr=1)
    try:
        assert spec.callable()() == (3, 2, 1)
        assert spec.job().name == "a"
        assert sys.path.count(str(tmp_path)) == 1
    finally:
        del sys.modules["functions_of_a_job"]


def test_a_script_is_built_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("raise ValueError('ran')")
    script = JobSpec("a", "script", str(tmp_path / "train.py"), ["-v"]).callable()
    assert isinstance(script, Script)
    assert (script.path, script.argv) == (tmp_path / "train.py", ("-v",))
    with pytest.raises(ValueError, match="ran"):
        script()


# What the child finds


@pytest.fixture
def problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[JobSpec], str | None]:
    """Look for a problem in this process, and forget what was imported."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    known = set(sys.modules)

    def problem(spec: JobSpec) -> str | None:
        try:
            return problem_of(spec, {})
        finally:
            for name in set(sys.modules) - known:
                if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
                    del sys.modules[name]

    return problem


@pytest.mark.parametrize(
    ("target", "arguments", "expected"),
    [
        ("functions:train", {"width": 1}, None),
        ("functions:train", {"width": 1, "depth": 2, "lr": 3}, None),
        ("functions:anything", {"x y": 1}, None),
        ("functions:Trainer", {"width": 1}, None),
        ("functions:Trainer.fit", {"width": 1}, None),
        ("builtins:dict", {"a": 1}, None),
        ("functions:train", {"widht": 1}, "functions:train takes no argument 'widht'; did you mean 'width'?"),
        ("functions:train", {"zebra": 1}, "functions:train takes no argument 'zebra'; known: width, depth, lr"),
        ("functions:nothing", {"x": 1}, "functions:nothing takes no argument 'x'; it takes none"),
        ("functions:train", {}, "functions:train needs the argument width; give it in with:"),
        ("functions:positional", {}, "functions:positional cannot take these arguments: missing a required"),
        ("functions:positional", {"data": 1}, "functions:positional takes no argument 'data'"),
        ("functions:value", {}, "functions:value is not callable; it is of type int"),
        ("functions:trian", {}, "functions has no 'trian'; did you mean 'train'?"),
        ("functions:Trainer.fitt", {}, "functions.Trainer has no 'fitt'; did you mean 'fit'?"),
        ("functoins:train", {}, "there is no module 'functoins'; did you mean 'functions'?"),
        ("functions.sub:train", {}, "there is no module 'functions.sub'"),
        ("email.mesage:Message", {}, "there is no module 'email.mesage'; did you mean 'message'?"),
    ],
)
def test_problems_of_functions(
    problem: Callable[[JobSpec], str | None],
    tmp_path: Path,
    target: str,
    arguments: dict[str, object],
    expected: str | None,
) -> None:
    found = problem(call(target, tmp_path, **arguments))
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(expected)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("\nimport no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency' ({file}, line 2)"),
        ("x = 1\nx.y", "AttributeError: 'int' object has no attribute 'y' ({file}, line 2)"),
        ("def f(:\n", "SyntaxError: invalid syntax ({file}, line 1)"),
        ("raise SystemExit(3)", "SystemExit: 3 ({file}, line 1)"),
        ("raise KeyError('a\\nb')", "KeyError: 'a\\nb' ({file}, line 1)"),
        ("raise ValueError('a\\nb')", "ValueError: a b ({file}, line 1)"),
        ("import os\nos.environ['NO_SUCH']", "KeyError: 'NO_SUCH' ({file}, line 2)"),
    ],
)
def test_imports_that_fail_are_reported_in_one_line(
    problem: Callable[[JobSpec], str | None], tmp_path: Path, source: str, expected: str
) -> None:
    (tmp_path / "broken.py").write_text(source)
    found = problem(call("broken:f", tmp_path))
    assert found is not None
    message = expected.format(file=tmp_path / "broken.py")
    if "environ" in source:  # raised within the standard library, on our behalf
        assert found.startswith("importing broken failed: KeyError: 'NO_SUCH'")
    else:
        assert found == f"importing broken failed: {message}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b"raise ValueError('must not run')", None),
        (b"x = 1\nx = (\n", "train.py, line 2: SyntaxError: '(' was never closed"),
        (b"if True:\nx = 1\n", "train.py, line 2: IndentationError: expected an indented block"),
        (b"x = '\xe9'\n", "train.py, line 1: SyntaxError: (unicode error)"),
        (b"x = 1\0", "train.py"),
        (b"return 3", "train.py, line 1: SyntaxError: 'return' outside function"),
    ],
)
def test_problems_of_scripts(tmp_path: Path, source: bytes, expected: str | None) -> None:
    path = tmp_path / "train.py"
    path.write_bytes(source)
    found = problem_of(JobSpec("a", "script", str(path), []), {})
    if expected is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith(expected)
        assert "None" not in found
        assert "\n" not in found


def test_a_script_that_went_away(tmp_path: Path) -> None:
    spec = JobSpec("a", "script", str(tmp_path / "train.py"), [])
    assert problem_of(spec, {}) == "train.py cannot be read: No such file or directory"


# The child


def test_a_noisy_but_sound_file_passes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "noisy_functions.py").write_text(
        "import atexit, os, subprocess, sys, threading, time\n"
        'print(\'{"checked": 0, "problem": "forged"}\', flush=True)\n'
        "os.write(1, b'{\"checking\": 7')\n"
        "os.system('echo from a child')\n"
        "assert os.environ['RANK'] == '0' and os.environ['WORLD_SIZE'] == '1'\n"
        "assert 'TORCHELASTIC_RUN_ID' not in os.environ\n"
        "assert sys.stdin.read() == ''\n"
        "child = subprocess.Popen(['sleep', '1000'])\n"
        "open('pid', 'w').write(str(child.pid))\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "atexit.register(time.sleep, 1000)\n"
        "def train(width): ...\n"
    )
    (tmp_path / "train.py").write_text("raise ValueError('must not run')")
    (tmp_path / "jobs.yaml").write_text(
        "jobs:\n"
        "  a: {call: 'noisy_functions:train', with: {width: 3}}\n"
        "  b: {call: 'noisy_functions:train', with: {width: .nan}}\n"
        "  c: {script: train.py}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")
    check_specs(load_jobs_file("jobs.yaml"))
    assert "noisy_functions" not in sys.modules
    assert is_gone(int(Path("pid").read_text()))
    check_specs([])


def is_gone(pid: int) -> bool:
    """Wait for a killed process to be gone; whoever adopted it may take a moment to notice."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
    return False


def test_all_problems_are_listed_once(tmp_path: Path) -> None:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "train.py").write_text("x = (\n")
    path = tmp_path / "jobs.yaml"
    path.write_text(
        "jobs:\n"
        "  good: {call: 'functions:train', with: {width: 3}}\n"
        "  bad: {call: 'functions:trian'}\n"
        "sweep:\n"
        "  script: train.py\n"
        "  args: {lr: [1, 2, 3, 4, 5]}\n"
    )
    with pytest.raises(UsageError) as caught:
        check_specs(load_jobs_file(path))
    assert str(caught.value).splitlines() == [
        "6 of 7 jobs cannot start:",
        f"  {path}:3: job 'bad': functions has no 'trian'; did you mean 'train'?",
        f"  {path}:5: jobs 'lr1', 'lr2', 'lr3' and 2 more: train.py, line 1: SyntaxError: '(' was never closed",
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "importing killer ended the interpreter (SIGSEGV)"),
        (
            "import os, sys\nprint('farewell', file=sys.stderr, flush=True)\nos._exit(0)",
            "importing killer ended the interpreter (exit status 0); its last words: farewell",
        ),
    ],
)
def test_an_import_that_ends_the_interpreter_is_named(tmp_path: Path, source: str, expected: str) -> None:
    (tmp_path / "killer.py").write_text(source)
    with pytest.raises(UsageError) as caught:
        check_specs([call("builtins:dict", tmp_path, "sound"), call("killer:f", tmp_path, "last")])
    assert str(caught.value) == f"job 'last': {expected}"


def test_an_import_that_does_not_end_is_ended(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import threading\nthreading.Event().wait()")
    with pytest.raises(UsageError, match=r"^job 'a': .* took longer than 0.5 seconds; "):
        check_specs([call("endless:f", tmp_path)], timeout_seconds=0.5)


def test_what_took_too_long_is_named(tmp_path: Path) -> None:
    specs = [call("sound:f", tmp_path), JobSpec("b", "script", "/train.py", []), call("endless.main:f", tmp_path)]
    assert _ending(specs, 2, None, b"", 300) == (
        "importing endless.main took longer than 300 seconds; does it train on import? put that into a function"
    )
    assert _ending(specs, 1, None, b"", 0.5).startswith("compiling /train.py took longer than 0.5 seconds")
    assert _ending(specs, -1, 1, b"Traceback:\nImportError: torch\n", 300) == (
        "checking it ended the interpreter (exit status 1); its last words: ImportError: torch"
    )


def test_what_was_printed_into_the_report_is_passed_over() -> None:
    report = b'hello\n3\n["checking"]\n\n{"checking": 0}\n{"checked": 0, "problem": null}\n{"checking": 1}\n{"chec'
    assert _read_report(report, 1) == ({}, None)
    assert _read_report(report, 2) == ({}, 1)
    assert _read_report(b"hello\n", 1) == ({}, -1)
