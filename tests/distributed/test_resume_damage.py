"""Run directories and checkpoints, damaged in any way: one clear message, no traceback, no worker started in vain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motet.checkpoints import SHARED, Checkpoints, resuming, worker_part
from motet.cli import main, start
from motet.errors import CheckpointError, UsageError
from motet.launcher.outcome import GangOutcome
from motet.results import JobResult, Results
from motet.run_dir import RunDir

NUM_EXAMPLES = 400
FINISHED = JobResult("finished", 12, 1.0, 0.5, 0.25, result=0.5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as a stopped run leaves it: one job has finished, one has failed, one has two checkpoints."""
    place = tmp_path_factory.mktemp("whole")
    (place / "train.py").write_text("")
    jobs = [
        {"name": name, "kind": "script", "target": str(place / "train.py"), "arguments": [], "turns": None, "paths": []}
        for name in ("done", "bad", "half")
    ]
    description = {
        "jobs": jobs,
        "command": ["motet", "run", "jobs.yaml", "--nproc-per-node=2"],
        "directory": str(place),
    }
    run_dir = RunDir.create(place / "run", {**description, "order": None, "at_once": None})
    resuming.keep_result(run_dir, "done", FINISHED, None)
    resuming.keep_result(run_dir, "bad", JobResult("failed", 3, 0.0, 0.0, 0.0, error="ValueError: no"), None)
    resuming.record_failure(run_dir, "half", "first", 1, 7, "ValueError: no")
    checkpoints = Checkpoints(run_dir.checkpoints_dir, "half", worker=0, num_workers=1)
    for turn in (5, 10):
        payloads = {SHARED: {"objects": {"model": {"w": torch.ones(3)}}}, worker_part(0): {"objects": {}}}
        checkpoints.commit(turn, [checkpoints.write_part(turn, name, payload) for name, payload in payloads.items()])
    jobs_so_far = {"done": FINISHED, "half": JobResult("stopped", 10, 0.0, 0.0, 0.0)}
    run_dir.write_results(Results(jobs_so_far, num_workers=2, wall_seconds=1.0))
    return run_dir.path


class Started(Exception):
    """Workers would have been started."""


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    def run_workers(options: Any, arguments: list[str], **talk: Any) -> GangOutcome:
        raise Started(arguments)

    monkeypatch.setattr(start, "run_workers", run_workers)
    monkeypatch.setattr(start, "check_specs", lambda specs, **options: None)  # tested by itself; it starts a process
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return


FILES = [
    "run.json",
    "results.json",
    "jobs/done/ended.json",
    "jobs/bad/ended.json",
    "jobs/half/attempts/first-1.json",
    "checkpoints/half/turn-00000010/manifest.json",
    "checkpoints/half/turn-00000010/shared.pt",
    "checkpoints/half/turn-00000005/worker-0.pt",
]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "kind", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, str, Any]:
    """Draw a file, what happens to it, and how."""
    kind = draw(
        st.sampled_from(["truncate", "flip", "remove", "folder", "fill", "field", "no field", "of another job"])
    )
    values = {
        "truncate": st.integers(0, 400),
        "flip": st.tuples(st.integers(0, 4000), st.integers(1, 255)),
        "fill": st.binary(max_size=40),
        "field": st.tuples(st.integers(0, 30), PLAIN),
        "no field": st.integers(0, 30),
    }
    return draw(st.sampled_from(FILES)), kind, draw(values.get(kind, st.none()))


def damage(path: Path, kind: str, value: Any) -> None:
    data = bytearray(path.read_bytes())
    if kind == "truncate":
        path.write_bytes(data[:value])
    elif kind == "flip":
        data[value[0] % len(data)] ^= value[1]
        path.write_bytes(data)
    elif kind == "fill":
        path.write_bytes(value)
    elif kind in ("remove", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    elif path.suffix == ".json":
        try:
            content = json.loads(data)
        except ValueError:  # harmed already
            return
        if not isinstance(content, dict):
            return
        places = [content, *(content.get("jobs") if isinstance(content.get("jobs"), list) else [])]
        places += content["parts"] if isinstance(content.get("parts"), list) else []
        fields = [(place, key) for place in places if isinstance(place, dict) for key in place]
        if kind == "of another job":
            fields = [(place, key) for place, key in fields if key == "job"]
            value = (0, "another")
        if not fields:
            return
        place, key = fields[(value if kind == "no field" else value[0]) % len(fields)]
        if kind == "no field":
            del place[key]
        else:
            place[key] = value[1]
        path.write_text(json.dumps(content))


@settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(found=st.lists(damages(), min_size=1, max_size=2), retry=st.booleans())
def test_one_clear_message_or_a_start(
    stage: None, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], found: list[Any], retry: bool
) -> None:
    place = tmp_path / "run"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(whole, place)
    for file, kind, value in found:
        if (place / file).is_file() and (place / file).stat().st_size:
            damage(place / file, kind, value)
    started = None
    try:
        status = main(["resume", str(place), "--quiet", *["--retry-failed"] * retry])
    except Started as word:
        started = word
    out, err = capsys.readouterr()
    if started is not None:
        # Whatever was started can go on: with the job that is half done, from a checkpoint that is whole.
        assert not err, err
        assert Checkpoints(place / "checkpoints", "half", worker=0, num_workers=1).latest() is not None or not list(
            (place / "checkpoints" / "half").glob("turn-*")
        )
        return
    assert status == 2, (found, out, err)
    assert err.count("motet: ") == 1, err
    assert "Traceback" not in err
    assert len(err) < 2000


def test_the_whole_one_is_gone_on_with(stage: None, whole: Path) -> None:
    with pytest.raises(Started) as started:
        main(["resume", str(whole), "--only", "half"])
    run_dir, changes = started.value.args[0]
    assert run_dir == str(whole)
    assert json.loads(changes.removeprefix("--config="))["only"] == ["half"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "not a run directory"),
        (["WHOLE", "--only", "hlaf"], "did you mean 'half'"),
        (["WHOLE", "--stop-after", "soon"], "--stop-after"),
        (["WHOLE", "--max-job-failures", "-1"], "--max-job-failures"),
        (["WHOLE", "--on-nan", "panic"], "panic"),
        (["WHOLE", "--nproc-per-node", "0"], "at least 1"),
        ([], "RUN_DIR"),
    ],
)
def test_what_it_says_to_wrong_words(
    stage: None, whole: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["resume", *[str(whole) if word == "WHOLE" else word for word in words]]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("motet: ") == 1


def test_a_run_that_goes_on_is_left_alone(stage: None, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunDir.open(whole).held():
        assert main(["resume", str(whole)]) == 2
    assert "still going on" in capsys.readouterr().err


def test_there_is_nothing_to_do_where_all_have_ended(
    stage: None, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "ended"
    shutil.copytree(whole, place)
    resuming.keep_result(RunDir.open(place), "half", FINISHED, None)
    assert main(["resume", str(place)]) == 1, "one job has failed"
    captured = capsys.readouterr()
    assert "nothing to do" in captured.err
    assert "--retry-failed" in captured.err
    with pytest.raises(Started):
        main(["resume", str(place), "--retry-failed"])


def test_python_jobs_are_for_their_program(stage: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunDir.create(tmp_path / "run", {"jobs": [{"name": "a", "kind": "python"}], "directory": str(tmp_path)})
    assert main(["resume", str(tmp_path / "run")]) == 2
    assert "resume=True" in capsys.readouterr().err


def test_what_a_loop_returned_counts_once_the_checkpoint_of_its_end_is_whole(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", {})
    endings = resuming.endings(run_dir, torch.save)
    endings.keep("a", 12, {"loss": 0.5})
    checkpoints = Checkpoints(run_dir.checkpoints_dir, "a", worker=0, num_workers=1)
    for turn in (10, 12):
        parts = [checkpoints.write_part(turn, name, {"x": torch.ones(1)}) for name in (SHARED, worker_part(0))]
        assert resuming.ended_result(run_dir, "a") is None
        checkpoints.commit(turn, parts)
    assert resuming.ended_result(run_dir, "a") == JobResult("finished", 12, 0.0, 0.0, 0.0, {"loss": 0.5})
    endings.forget("a")
    assert resuming.ended_result(run_dir, "a") is None


def test_names_cannot_lead_out_of_the_run_directory(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "run", {})
    for name in ("../out", "..", ".", "", "a/b", "a\0b", "/etc", "a\\b"):
        with pytest.raises(UsageError):
            run_dir.job_dir(name)
    damaged = RunDir.create(tmp_path / "other", {"jobs": [{"name": "../../out", "kind": "script"}]})
    with pytest.raises(CheckpointError):
        resuming.job_names(damaged)


def test_files_have_the_users_umask(whole: Path, tmp_path: Path) -> None:
    import os

    before = os.umask(0o077)
    try:
        run_dir = RunDir.create(tmp_path / "private", {})
        resuming.keep_result(run_dir, "a", FINISHED, None)
        run_dir.write_results(Results({"a": FINISHED}, num_workers=1, wall_seconds=1.0))
        checkpoints = Checkpoints(run_dir.checkpoints_dir, "a", worker=0, num_workers=1)
        parts = [checkpoints.write_part(1, name, {"x": torch.ones(1)}) for name in (SHARED, worker_part(0))]
        checkpoints.commit(1, parts)
    finally:
        os.umask(before)
    paths = [run_dir.path, *run_dir.path.rglob("*")]
    assert len(paths) > 8
    assert not [path for path in paths if path.stat().st_mode & 0o077]
    assert not [path for path in whole.rglob("*") if path.stat().st_mode & 0o002], "never world-writable"
