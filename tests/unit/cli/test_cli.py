"""What the command says to wrong input, before it starts anything; what it prints at the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from motet.cli import COMMANDS, main
from motet.cli.run import parse, specs_of
from motet.cli.start import _how_to_go_on
from motet.cli.table import results_table
from motet.errors import UsageError
from motet.launcher.launch import launch
from motet.launcher.outcome import exit_status
from motet.launcher.torchrun_options import torchrun_options
from motet.results import JobResult, Results, Status
from motet.run_dir import RunDir


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "good.yaml").write_text("jobs:\n  a: {call: 'time:time'}\n  b: {call: 'time:monotonic'}\n")
    (tmp_path / "broken.yaml").write_text("jobs:\n  a: {call: 'time:time'\n  b: 3\n")
    (tmp_path / "misspelt.yaml").write_text("jobs:\n  a: {cal: 'time:time'}\n")
    (tmp_path / "nowhere.yaml").write_text("jobs:\n  a: {call: 'no_such_module:train'}\n")
    (tmp_path / "unfitting.yaml").write_text("jobs:\n  a: {call: 'calendar:isleap', with: {lr: 1}}\n")
    (tmp_path / "lost.yaml").write_text("jobs:\n  a: {script: trian.py}\n")
    (tmp_path / "train.py").write_text("print('trained')\n")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "run.json").write_text("{}")
    (tmp_path / "file").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rnu"], "did you mean 'run'"),
        (["run"], "JOBS"),
        (["run", "absent.yaml"], "absent.yaml"),
        (["run", "broken.yaml"], "line 2"),
        (["run", "misspelt.yaml"], "did you mean 'call'"),
        (["run", "nowhere.yaml"], "no_such_module"),
        (["run", "unfitting.yaml"], "'lr'"),
        (["run", "lost.yaml"], "did you mean 'train.py'"),
        (["run", "train.py"], "--each"),
        (["run", "absent.py", "--each", ""], "absent.py"),
        (["run", "good.yaml", "--each", "--lr 1"], "--each goes with a script"),
        (["run", "good.yaml", "--order", "a,c"], "'c'"),
        (["run", "good.yaml", "--order", "a"], "b"),
        (["run", "good.yaml", "--at-once", "0"], "at-once"),
        (["run", "good.yaml", "--at-once", "two"], "two"),
        (["run", "good.yaml", "--nproc-per-node=0"], "at least 1"),
        (["run", "good.yaml", "--nproc-per-node", "some"], "some"),
        (["run", "good.yaml", "--nnodes=0"], "--nnodes"),
        (["run", "good.yaml", "--no-such-option"], "--no-such-option"),
        (["run", "good.yaml", "another.yaml"], "another.yaml"),
        (["run", "good.yaml", "--run-dir", "old"], "holds another run"),
        (["run", "good.yaml", "--run-dir", "file"], "is a file"),
        (["run", "good.yaml", "--run-dir", "file/below"], "cannot be made"),
        (["run", "good.yaml", "--verbose", "--quiet"], "contradict"),
    ],
)
def test_wrong_input_gets_one_message(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("motet: ")
    assert message in err
    assert "Traceback" not in err
    assert not (place / "runs").exists(), "nothing may be begun"


def test_torchrun_options_stand_before_and_after_the_jobs() -> None:
    for words in (["--nproc-per-node", "2", "j.yaml"], ["j.yaml", "--nproc_per_node=2"]):
        options = parse([*words, "--max-restarts=3", "--order", "a,b"])
        assert (options.jobs, options.nproc_per_node, options.max_restarts) == ("j.yaml", "2", 3)


def test_each_takes_what_looks_like_an_option() -> None:
    words = ["train.py", "--each", "--lr 0.1", "--each", "--lr=0.01", "--each=--verbose", "--each", "", "--nnodes=1"]
    options = parse(words)
    assert options.each == ["--lr 0.1", "--lr=0.01", "--verbose", ""]
    assert not options.verbose


def test_all_of_torchruns_options_are_known() -> None:
    from torch.distributed.run import get_args_parser

    own = {flag for action in torchrun_options() for flag in action.option_strings}
    theirs = {flag for action in get_args_parser()._actions for flag in action.option_strings}
    newer = {"--print-completion", "--print_completion"} & theirs  # since torch 2.14; it is about torchrun itself
    left_out = {"-h", "--help", "-m", "--module", "--no-python", "--no_python", "--run-path", "--run_path"}
    assert theirs - own == left_out | newer


def test_environment_of_kubeflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PET_NPROC_PER_NODE", "4")
    monkeypatch.setenv("PET_NNODES", "2")
    options = parse(["j.yaml"])
    assert (options.nproc_per_node, options.nnodes) == ("4", "2")


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert all(f"motet {name}" in out for name in COMMANDS)


def test_help_of_run_explains_torchruns_options_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--each" in out
    assert "--nproc-per-node" in out


def job(status: Status = "finished", **fields: object) -> JobResult:
    return JobResult(**{"status": status, "turns": 5, "compute_seconds": 3.14, "sync_seconds": 2.0,
                        "hidden_seconds": 1.5, **fields})  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["finished", "pruned"], 0),
        (["finished", "failed"], 1),
        (["finished", "stopped"], 3),
        (["failed", "stopped"], 3),
    ],
)
def test_exit_status(statuses: list[Status], expected: int) -> None:
    jobs = {str(number): job(status) for number, status in enumerate(statuses)}
    assert exit_status(Results(jobs, 1, 1.0)) == expected


FAILED = 'Traceback (most recent call last):\n  File "a.py", line 7, in f\nValueError: no such\nlayer: 3\n'


def test_the_table() -> None:
    jobs = {
        "gpt": job(result={"bits_per_byte": 2.345678, "steps": 40}),
        "a-long-name": job("failed", error=FAILED, failed_on=1),
        "tensor": job(result={"repr": "tensor(1.)", "file": "jobs/tensor/result.pt"}),
        "shown": job(result={"metric": "accuracy", "before": 0.0833333, "after": 0.99444}),
        "nothing": job(sync_seconds=0.0, hidden_seconds=0.0),
    }
    results = Results(jobs, num_workers=2, wall_seconds=12.34, efficiency=0.974)
    table = results_table(results, lambda name, worker: f"log of {name} on {worker}").splitlines()
    assert table == [
        "job          status    turns  result                         compute   sync       hidden",
        "gpt          finished      5  bits_per_byte 2.346, steps 40    3.1 s  2.0 s  1.5 s (75%)",
        "a-long-name  failed        5  a.py:7: ValueError: no such      3.1 s  2.0 s  1.5 s (75%)",
        "tensor       finished      5  jobs/tensor/result.pt            3.1 s  2.0 s  1.5 s (75%)",
        "shown        finished      5  accuracy 0.08333 -> 0.9944       3.1 s  2.0 s  1.5 s (75%)",
        "nothing      finished      5  -                                3.1 s  0.0 s        0.0 s",
        "2 workers, 12.3 s, efficiency 0.97",
        "a-long-name failed: a.py:7: ValueError: no such (all of it: log of a-long-name on 1)",
    ]


def test_launch_refuses_before_it_starts_anything(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no jobs"):
        launch({})
    with pytest.raises(UsageError, match="not callable"):
        launch({"a": 3})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="'c'"):
        launch({"a": print}, order="a,c")
    with pytest.raises(UsageError, match="at least 1"):
        launch({"a": print}, nproc_per_node=0)
    with pytest.raises(UsageError, match=r"at_once .--at-once. takes"):
        launch({"a": print}, at_once=0)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="inside a worker"):
        launch({"a": print})
    assert not (place / "runs").exists()


def test_results_are_a_mapping() -> None:
    results = Results({"a": job(), "b": job("failed")}, num_workers=2, wall_seconds=1.0)
    assert list(results) == ["a", "b"]
    assert len(results) == 2
    assert "b" in results
    assert [(name, one.status) for name, one in results.items()] == [("a", "finished"), ("b", "failed")]
    assert results.get("c") is None


def test_what_resume_would_do_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = [{"name": "a", "kind": "script"}, {"name": "b", "kind": "script"}]
    run_dir = RunDir.create("my run", {"jobs": jobs})
    stopped = Results({"a": job("stopped"), "b": job("stopped")}, 2, 1.0)
    report = _how_to_go_on(run_dir, stopped)
    assert report == "motet: no job has saved a checkpoint: motet resume 'my run' would begin a, b anew\n"
    (run_dir.checkpoints_dir / "a" / "turn-00000040").mkdir(parents=True)
    assert _how_to_go_on(run_dir, stopped) == "motet: to go on: motet resume 'my run' (a after turn 40, b anew)\n"
    assert _how_to_go_on(run_dir, Results({"a": job(), "b": job("failed")}, 2, 1.0)) == ""
    python = RunDir.create("python", {"jobs": [{"name": "a", "kind": "python"}]})
    assert _how_to_go_on(python, stopped) == "", "no command can go on with what a program defines"


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "train.py").touch()
    (tmp_path / "jobs.yaml").write_text("jobs: {a: {script: ~/train.py}}")
    options = parse(["~/jobs.yaml", "--run-dir=~/out"])
    assert [spec.target for spec in specs_of(options)] == [str(tmp_path / "train.py")]
    assert RunDir.create("~/runs", {}).path == RunDir.open("~/runs").path == tmp_path / "runs"
    assert options.run_dir == str(tmp_path / "out")


@pytest.mark.parametrize("redirection", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_matter(tmp_path: Path, redirection: str) -> None:
    command = f"{sys.executable} -m motet run {tmp_path / 'none.yaml'} {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert ("there is no such jobs file" in done.stderr) == ("2>" not in redirection)


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    command = f"mkdir gone && cd gone && rmdir ../gone && {sys.executable} -m motet run jobs.yaml"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("motet: the working directory is gone")
    assert done.stderr.count("\n") == 1
