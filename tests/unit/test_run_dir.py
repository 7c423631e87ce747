from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path
from typing import IO

import pytest

from motet.errors import CheckpointError, UsageError
from motet.launcher.outcome import GangOutcome, conclude
from motet.results import JobResult, Results
from motet.run_dir import RunDir, WorkerState


def results_of(**values: object) -> Results:
    jobs = {name: JobResult("finished", 3, 1.5, 1.0, 0.5, result=value) for name, value in values.items()}
    return Results(jobs=jobs, num_workers=2, wall_seconds=2.5, notices=("said once",))


def test_a_run_is_read_back_as_it_was_begun(tmp_path: Path) -> None:
    made = RunDir.create(tmp_path / "run", {"command": ["motet", "run"], "jobs": []})
    opened = RunDir.open(tmp_path / "run")
    assert opened.path == made.path
    assert opened.path.is_absolute()
    assert opened.description == made.description
    assert opened.description["command"] == ["motet", "run"]
    assert opened.description["format"] == 1


def test_default_directories_are_new_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {RunDir.create(None, {}).path for _ in range(3)}
    assert len(paths) == 3
    assert {path.parent for path in paths} == {tmp_path.resolve() / "runs"}


def test_a_directory_holds_one_run(tmp_path: Path) -> None:
    RunDir.create(tmp_path, {})
    with pytest.raises(UsageError, match="holds another run"):
        RunDir.create(tmp_path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]  # no draft is left


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        RunDir.create(tmp_path / "file", {})
    with pytest.raises(UsageError, match="cannot be made"):
        RunDir.create(tmp_path / "file" / "below", {})


def test_joining_finds_the_same_run_and_refuses_another(tmp_path: Path) -> None:
    first = RunDir.create(tmp_path / "run", {"jobs": [{"name": "a"}]})
    joined, begun_here = RunDir.join(first.path, first.description)
    assert not begun_here
    assert joined.description == first.description
    elsewhere, begun_here = RunDir.join(tmp_path / "elsewhere", first.description)
    assert begun_here
    assert elsewhere.description == first.description
    other = RunDir.create(tmp_path / "other", {})
    with pytest.raises(UsageError, match="another run"):
        RunDir.join(other.path, first.description)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', "null"])
def test_a_damaged_or_foreign_run_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        RunDir.open(tmp_path)


def test_what_is_no_run_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no run\.json"):
        RunDir.open(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", "/etc", "a\\b", "a\0b"])
def test_names_cannot_lead_out(tmp_path: Path, name: str) -> None:
    run_dir = RunDir.create(tmp_path / "run", {})
    with pytest.raises(UsageError, match="name"):
        run_dir.job_dir(name)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_json_results_are_read_back(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", {})
    results = results_of(a=0.93, b={"accuracy": [1, 2]}, c=None)
    run_dir.write_results(results)
    assert run_dir.read_results() == results


def test_other_results_go_to_a_file_named_there(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", {})

    def save(value: object, file: IO[bytes]) -> None:
        file.write(repr(value).encode())

    run_dir.write_results(results_of(a={1, 2}, b=float("nan")), save)
    result = run_dir.read_results()["a"].result
    assert result == {"repr": "{1, 2}", "file": "jobs/a/result.pt"}
    assert (run_dir.path / result["file"]).read_text() == "{1, 2}"
    # strict JSON: other programs cannot read NaN
    json.loads((run_dir.path / "results.json").read_text(), parse_constant=pytest.fail)


def test_a_result_that_cannot_be_saved_keeps_its_repr(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", {})

    def save(value: object, file: IO[bytes]) -> None:
        file.write(b"half")
        raise TypeError("cannot be pickled")

    run_dir.write_results(results_of(a={1}), save)
    assert run_dir.read_results()["a"].result == {"repr": "{1}", "file": None}
    assert not (run_dir.path / "jobs/a/result.pt").exists()


def test_results_are_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError("no space left on device")

    run_dir = RunDir.create(tmp_path / "run", {})
    run_dir.write_results(results_of(a=1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="no space"):
            run_dir.write_results(results_of(a=2))
    assert run_dir.read_results()["a"].result == 1
    assert sorted(p.name for p in run_dir.path.iterdir()) == ["results.json", "run.json"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"jobs": {"a": {"status": "finished"}}}', '{"jobs": 3}'])
def test_damaged_results_are_refused(tmp_path: Path, content: str) -> None:
    run_dir = RunDir.create(tmp_path / "run", {})
    (run_dir.path / "results.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"results\.json"):
        run_dir.read_results()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"gpt 47 computing      \n", WorkerState("gpt", 47, "computing")),
        (b"two words 3 waiting\0\0\0\0", WorkerState("two words", 3, "waiting")),
        (b"- 0 starting\n\n\n", WorkerState(None, 0, "starting")),
        (b"gpt 4", None),
        (b"", None),
        (b"\xff\xfe 1 computing", None),
    ],
)
def test_what_a_worker_was_doing(tmp_path: Path, content: bytes, expected: WorkerState | None) -> None:
    run_dir = RunDir.create(tmp_path / "run", {})
    assert run_dir.read_state(1) is None
    run_dir.state_path(1).write_bytes(content)
    assert run_dir.read_state(1) == expected


@pytest.mark.parametrize(("umask", "forbidden"), [(0o027, 0o027), (0, stat.S_IWOTH)])
def test_files_follow_the_umask_and_never_let_everybody_write(tmp_path: Path, umask: int, forbidden: int) -> None:
    before = os.umask(umask)
    try:
        run_dir = RunDir.create(tmp_path / "above" / "run", {})
        run_dir.write_results(results_of(a={1}), lambda value, file: None)
        run_dir.write_state(0, "joining")
    finally:
        os.umask(before)
    found = [run_dir.path.parent, *run_dir.path.parent.rglob("*")]
    assert len(found) >= 8
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) & forbidden == 0, path


def test_a_job_has_come_as_far_as_its_last_checkpoint(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", {"jobs": [{"name": "a"}, {"name": "b"}]})
    (run_dir.checkpoints_dir / "a" / "turn-00000040").mkdir(parents=True)
    (run_dir.checkpoints_dir / "a" / "turn-00000120.1").mkdir()
    outcome = GangOutcome(num_workers=2, exits={1: 7, 0: 4}, killed=frozenset(), stopped_by=None, wall_seconds=1.0)
    results, error = conclude(outcome, run_dir)
    assert (results["a"].turns, results["b"].turns) == (120, 0)
    assert "worker 1 ended with exit status 7" in str(error)


def test_where_all_went_well_but_results_could_not_be_written_that_is_said(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", {"jobs": [{"name": "a"}]})
    outcome = GangOutcome(num_workers=2, exits={0: 0, 1: 0}, killed=frozenset(), stopped_by=None, wall_seconds=1.0)
    _, error = conclude(outcome, run_dir)
    assert f"the jobs have ended, but what came of them could not be written to {run_dir.path}" in str(error)
    assert "are free there" in str(error)


def test_a_directory_in_which_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", {})
    (run_dir.path / "state").write_text("no folder")
    with pytest.raises(UsageError, match=f"nothing can be written to the run directory {run_dir.path}: "):
        run_dir.probe()


def test_a_child_that_outlives_a_run_does_not_hold_it(tmp_path: Path) -> None:
    run_dir, fork = RunDir.create(tmp_path / "run", {}), multiprocessing.get_context("fork")
    begun, go = fork.Event(), fork.Event()
    with run_dir.held():
        child = fork.Process(target=lambda: begun.set() or go.wait())
        child.start()
        begun.wait()
        with pytest.raises(UsageError, match="still going on"), run_dir.held():
            pass
    try:
        with run_dir.held():
            pass
    finally:
        go.set()
        child.join()
