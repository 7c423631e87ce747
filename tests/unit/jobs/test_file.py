from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from motet.errors import UsageError
from motet.jobs.file import load_jobs_file
from motet.jobs.spec import JobSpec

Load = Callable[[str], list[JobSpec]]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write jobs.yaml beside train.py and other/train.py, and load it by its bare name."""
    (tmp_path / "train.py").write_text("raise SystemExit('loading must not run me')\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.py").write_text("")
    (tmp_path / "tune.py").write_text("")
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> list[JobSpec]:
        Path("jobs.yaml").write_text(text, encoding="utf-8")
        return load_jobs_file("jobs.yaml")

    return load


def arguments(load: Load, text: str) -> object:
    [spec] = load(f"jobs:\n  a: {{script: train.py, args: {text}}}\n")
    return spec.arguments


def test_the_documented_file(load: Load, tmp_path: Path) -> None:
    gpt, conv, *sweep = load(
        "jobs:\n"
        '  gpt:  {call: "motet.demo:byte_gpt", with: {num_layers: 4, lr: 1e-3}, turns: 500}\n'
        "  conv: {script: train.py, args: {lr: 1e-3, epochs: 5}}\n"
        "sweep:\n"
        "  script: train.py\n"
        "  args: {lr: [1e-3, 3e-4], width: [128, 256]}\n"
    )
    folder = str(tmp_path)
    script = str(tmp_path / "train.py")
    assert gpt == JobSpec(
        "gpt", "call", "motet.demo:byte_gpt", {"num_layers": 4, "lr": 0.001}, 500, (folder,), "jobs.yaml:2"
    )
    assert conv == JobSpec("conv", "script", script, ["--lr", "1e-3", "--epochs", "5"], where="jobs.yaml:3")
    assert [(spec.name, spec.arguments) for spec in sweep] == [
        ("lr0.001-width128", ["--lr", "1e-3", "--width", "128"]),
        ("lr0.001-width256", ["--lr", "1e-3", "--width", "256"]),
        ("lr0.0003-width128", ["--lr", "3e-4", "--width", "128"]),
        ("lr0.0003-width256", ["--lr", "3e-4", "--width", "256"]),
    ]
    assert {spec.where for spec in sweep} == {"jobs.yaml:5"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{lr: 1e-3, seed: 010, when: 2026-01-31}", ["--lr", "1e-3", "--seed", "010", "--when", "2026-01-31"]),
        ("{amp: true, resume: false, init: null, name: 'true'}", ["--amp", "--name", "true"]),
        ("{hidden_size: 3, dry-run: true, -n: 3, -v: true}", ["--hidden_size", "3", "--dry-run", "-n", "3", "-v"]),
        ("{low: -1e-3, -n: -1, text: '--x'}", ["--low=-1e-3", "-n", "-1", "--text=--x"]),
        ("{betas: [0.9, 0.99], none: [], flags: [true]}", ["--betas", "0.9", "0.99", "--none", "--flags", "true"]),
        ("{text: ''}", ["--text", ""]),
        ("\"--lr 0.1 --name 'a b'\"", ["--lr", "0.1", "--name", "a b"]),
        ("[--lr, 0.10, a b]", ["--lr", "0.10", "a b"]),
        ("{}", []),
        ("[]", []),
        ("", []),
        ("''", []),
    ],
)
def test_arguments_of_scripts(load: Load, text: str, expected: list[str]) -> None:
    assert arguments(load, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{a: {b: 1}}", "--a: a script takes words and numbers, not {'b': 1}"),
        ("{a: [[1]]}", "--a: a script takes words and numbers, not .1."),
        ("{a: [null]}", "--a: a script takes words and numbers, not None"),
        ("{a b: 1}", "'a b' holds a space"),
        ("3", "args must be a mapping, a string or a list, not 3"),
        ('"--name \'x"', "cannot be split into words: No closing quotation"),
        ("{resume: no}", "an unquoted no is unclear: write false"),
    ],
)
def test_wrong_arguments_of_scripts(load: Load, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^jobs.yaml:2: .*{message}"):
        arguments(load, text)


def test_functions_are_looked_for_beside_the_jobs_file_then_here(load: Load, tmp_path: Path) -> None:
    Path("other/jobs.yaml").write_text("jobs: {a: {call: 'm.n:f.g'}, b: {call: 'm:f', with: }}")
    for spec in load_jobs_file("other/jobs.yaml"):
        assert spec.paths == (str(tmp_path / "other"), str(tmp_path))
        assert spec.arguments == {}


def test_scripts_are_looked_for_beside_the_jobs_file(load: Load, tmp_path: Path) -> None:
    Path("other/jobs.yaml").write_text("jobs: {a: {script: train.py}, b: {script: ../tune.py}}")
    targets = [spec.target for spec in load_jobs_file(Path("other/jobs.yaml"))]
    assert targets == [str(tmp_path / "other" / "train.py"), str(tmp_path / "tune.py")]


@pytest.mark.parametrize(
    ("sweep", "names"),
    [
        ("{script: train.py, args: {lr: [0.1], epochs: 5}}", ["lr0.1"]),
        ("{script: train.py, args: {lr: [0.1, 0.2], width: [8]}}", ["lr0.1", "lr0.2"]),
        ("{script: train.py, args: {amp: [true, false], opt: [adam]}}", ["amp=true", "amp=false"]),
        ("{script: train.py, args: {data: [a/b, a b]}}", ["data=a-b", "data=a-b-2"]),
        ("{script: train.py, args: {betas: [[0.9, 0.99], [0.8]]}}", ["betas0.9+0.99", "betas0.8"]),
        ("{script: train.py, args: {--lr: [1, -1]}}", ["lr1", "lr=-1"]),
        ("{script: train.py, args: {ß: [ä, ö]}}", ["train", "train-2"]),
        ("{call: 'm:f', with: {shape: [{d: 1}, {d: 2}]}}", ["shape=d=1", "shape=d=2"]),
        (
            "[{script: train.py, args: {lr: [1, 2]}}, {script: tune.py, args: {lr: [1]}}]",
            ["train-lr1", "train-lr2", "tune-lr1"],
        ),
        (
            "[{script: train.py, args: {lr: [1]}}, {script: other/train.py, args: {lr: [1]}}]",
            ["train-lr1", "train-lr1-2"],
        ),
        (
            "[{call: 'm:f', with: {lr: [1], o: sgd}}, {call: 'm:f', with: {lr: [1], o: adam, wd: 3}}]",
            ["o=sgd", "o=adam-wd3"],
        ),
    ],
)
def test_names_of_a_sweep(load: Load, sweep: str, names: list[str]) -> None:
    found = [spec.name for spec in load(f"sweep: {sweep}\n")]
    assert found == names


def test_values_of_a_sweep_keep_their_types(load: Load) -> None:
    specs = load("sweep: {call: 'm:f', with: {lr: [1e-3, 1], on: [true, null], fixed: {a: [1]}}, turns: 7}\n")
    assert [spec.arguments for spec in specs] == [
        {"lr": lr, "on": on, "fixed": {"a": [1]}} for lr in (0.001, 1) for on in (True, None)
    ]
    assert {spec.turns for spec in specs} == {7}


def test_anchors_share_what_jobs_have_in_common(load: Load) -> None:
    first, second = load(
        "jobs:\n"
        "  a: {script: train.py, args: &common {lr: 0.1, width: 8}}\n"
        "  b: {script: train.py, args: {<<: *common, lr: 0.2}}\n"
    )
    assert first.arguments == ["--lr", "0.1", "--width", "8"]
    assert second.arguments == ["--lr", "0.2", "--width", "8"]


JOB = "jobs:\n  a:\n    "
CALL = "call: 'm:f'"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "there are no jobs"),
        ("# nothing\n", 1, "there are no jobs"),
        ("{}", 1, "there are no jobs"),
        ("[]", 1, "there are no jobs"),
        ("jobs", 1, "a jobs file must be a mapping"),
        ("[1]", 1, "a jobs file must be a mapping"),
        ("job: {}", 1, "a jobs file has no key 'job'; did you mean 'jobs'?"),
        ("jobs:\n", 1, "jobs is empty"),
        ("\njobs: {}", 2, "jobs is empty"),
        ("jobs: [1]", 1, "jobs must be a mapping"),
        ("jobs: 3", 1, "jobs must be a mapping"),
        ("jobs:\n  a/b: {call: 'm:f'}", 2, "'a/b' cannot name a job"),
        ("jobs:\n  ..: {call: 'm:f'}", 2, "'..' cannot name a job"),
        ("jobs:\n  a,b: {call: 'm:f'}", 2, "'a,b' cannot name a job"),
        (f"jobs:\n  {'x' * 101}: {{}}", 2, "has 101 characters"),
        ("jobs:\n  a: {call: 'm:f'}\n  a: {call: 'm:g'}", 3, "'a' is given twice .first in line 2."),
        ("jobs:\n  a: 'm:f'", 2, "job 'a' must be a mapping"),
        ("jobs:\n  a:\n", 2, "job 'a' must be a mapping"),
        ("jobs:\n  a: {}", 2, "job 'a' has neither call nor script"),
        (JOB + "call: 'm:f'\n    script: train.py", 2, "job 'a' has both call and script"),
        (JOB + CALL + "\n    wth: {}", 4, "job 'a' has no key 'wth'; did you mean 'with'?"),
        (JOB + CALL + "\n    args: {}", 4, "args does not go with call; use with"),
        (JOB + "script: train.py\n    with: {}", 4, "with does not go with script; use args"),
        (JOB + CALL + "\n    with: [1]", 4, "with must be a mapping"),
        (JOB + "call: 3", 3, "call must be 'module:function', not 3"),
        (JOB + "call: [m, f]", 3, "call must be 'module:function'"),
        (JOB + "call:", 3, "call must be 'module:function', not None"),
        (JOB + "call: m.f", 3, "not 'm.f'; did you mean 'm:f'?"),
        (JOB + "call: 'dir/m.py:f'", 3, "did you mean 'dir.m:f'?"),
        (JOB + "call: train.py", 3, "a script is given by script:"),
        (JOB + "call: 'm f'", 3, "call must be 'module:function'"),
        (JOB + "script: trian.py", 3, "there is no script 'trian.py' .*did you mean 'train.py'?"),
        (JOB + "script: other", 3, "is a folder"),
        (JOB + "script: 3", 3, "script must be a path, not 3"),
        (JOB + "script: ''", 3, "script must be a path, not ''"),
        (JOB + 'script: "a\\0b"', 3, "there is no script"),
        *(
            (JOB + CALL + f"\n    turns: {turns}", 4, "turns must be a positive integer")
            for turns in ("0", "-1", "1.5")
        ),
        *((JOB + CALL + f"\n    turns: {turns}", 4, "turns must be a positive integer") for turns in ("true", "x", "")),
        ("sweep:", 1, "the sweep is empty"),
        ("sweep: []", 1, "the sweep is empty"),
        ("sweep: {}", 1, "the sweep is empty"),
        ("sweep: 3", 1, "sweep must be a mapping"),
        ("sweep:\n  - 3", 2, "sweep must be a mapping"),
        ("sweep:\n  script: train.py", 2, "the sweep varies nothing; give args"),
        ("sweep:\n  call: 'm:f'\n  with: {}", 2, "the sweep varies nothing; give with"),
        ("sweep: {script: train.py, args: {lr: 0.1}}", 1, "the sweep varies nothing; give a list"),
        ("sweep: {script: train.py, args: '--lr 1'}", 1, "args of a sweep must be a mapping"),
        ("sweep: {script: train.py, args: [1]}", 1, "args of a sweep must be a mapping"),
        ("sweep:\n  script: train.py\n  args:\n    lr: []", 4, "the sweep is empty: lr has no values"),
        ("sweep: {script: train.py, args: {lr: [0.1, 1e-1]}}", 1, "the sweep lists lr 0.1 twice"),
        ("sweep: {script: train.py, arg: {lr: [1]}}", 1, "sweep has no key 'arg'; did you mean 'args'?"),
        ("sweep: {call: 'm:f', with: {x: &x [0,1,2,3,4,5,6,7,8,9], y: *x, z: *x, w: *x}}", 1, "makes 10000 jobs"),
        (
            "sweep:\n- {script: train.py, args: {lr: [1, 2]}}\n- {script: train.py, args: {lr: [2, 3]}}",
            3,
            "the sweep makes the job 'lr2' of jobs.yaml:2 again",
        ),
        (
            "jobs:\n  lr1: {call: 'm:f'}\nsweep: {call: 'm:f', with: {lr: [1, 2]}}",
            3,
            "the sweep makes a job 'lr1', a name that jobs.yaml:2 has already",
        ),
        ("jobs: [\n", 2, "not valid YAML"),
    ],
)
def test_errors_name_file_line_and_remedy(load: Load, text: str, line: int, message: str) -> None:
    with pytest.raises(UsageError, match=rf"^jobs.yaml:{line}: .*{message}") as caught:
        load(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_that_cannot_be_read(load: Load, tmp_path: Path) -> None:
    load("jobs: {a: {call: 'm:f'}}")
    with pytest.raises(UsageError, match=r"^job.yaml: there is no such jobs file; did you mean 'jobs.yaml'\?$"):
        load_jobs_file("job.yaml")
    with pytest.raises(UsageError, match=r"^nowhere/jobs.yaml: there is no such jobs file$"):
        load_jobs_file("nowhere/jobs.yaml")
    with pytest.raises(UsageError, match="other: this is a folder"):
        load_jobs_file("other")
    with pytest.raises(UsageError, match=r"^train\.py/x: the jobs file cannot be read: Not a directory"):
        load_jobs_file("train.py/x")
    with pytest.raises(UsageError, match="cannot be read: embedded null"):
        load_jobs_file("a\0b")
    (tmp_path / "latin.yaml").write_bytes(b"jobs:\n  caf\xe9: {}\n")
    with pytest.raises(UsageError, match=r"^latin.yaml:2: a jobs file must be UTF-8"):
        load_jobs_file("latin.yaml")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(17 * 1024 * 1024)
    with pytest.raises(UsageError, match="too large for a jobs file"):
        load_jobs_file("large.yaml")


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "jobs.yaml"
    path.write_text("\ufeffjobs: {a: {call: 'm:f'}}", encoding="utf-8")
    assert [spec.name for spec in load_jobs_file(path)] == ["a"]
