"""Trackers: one run a job, grouped, with parameters, values, status and report; and those that jobs use themselves."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.integrations.python_process import ROOT, run_python
from tests.integrations.tracked_jobs import QUIET
from tests.integrations.wandb_files import wandb_runs

from motet.errors import UsageError
from motet.integrations.trackers import check_trackers
from motet.testing import Gang

HOME = "tests.integrations.tracked_jobs:"
MISSING = [name for name in ("tensorboard", "mlflow", "wandb", "lightning") if find_spec(name) is None]
needs_all = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}; pip install -e '.[trackers]'")


@pytest.fixture(scope="module")
def tracked(framework_gang: Gang, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run with every tracker: jobs good (finished), bad (failed), slow (pruned)."""
    folder = tmp_path_factory.mktemp("tracked")
    reports = framework_gang.run(HOME + "with_all_trackers", folder)
    assert reports[0] == reports[1] == ["finished", "failed", "pruned"]
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    """Read a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@needs_all
def test_csv(tracked: Path) -> None:
    ended = {(row["job"], row["status"], row["turns"]) for row in rows(tracked / "csv" / "jobs.csv")}
    assert ended == {("good", "finished", "4"), ("bad", "failed", "4"), ("slow", "pruned", "4")}
    values = rows(tracked / "csv" / "good" / "metrics.csv")
    assert [(row["turn"], row["name"]) for row in values] == [(str(turn), "loss") for turn in (2, 3, 4, 5)]
    assert float(values[0]["value"]) > float(values[-1]["value"]) > 0
    assert {"name": "lr", "value": "0.3"} in rows(tracked / "csv" / "slow" / "parameters.csv")


@needs_all
def test_tensorboard(tracked: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for job in ("good", "bad", "slow"):
        events = EventAccumulator(str(tracked / "tensorboard" / job)).Reload()
        assert [event.step for event in events.Scalars("loss")] == [2, 3, 4, 5]
        assert [event.value for event in events.Scalars("turns")] == [4]
        assert "status/text_summary" in events.Tags()["tensors"]
        assert "_hparams_/session_start_info" in events.summary_metadata


@needs_all
def test_mlflow(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = pytest.importorskip("mlflow").MlflowClient(tracking_uri=f"file:{tracked}/mlflow")
    experiment = client.get_experiment_by_name("tests").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert set(runs) == {"g", "good", "bad", "slow"}
    assert {name: run.info.status for name, run in runs.items()} == {
        "g": "FINISHED",
        "good": "FINISHED",
        "bad": "FAILED",
        "slow": "KILLED",
    }
    parent = runs["g"].info.run_id
    assert all(runs[name].data.tags["mlflow.parentRunId"] == parent for name in ("good", "bad", "slow"))
    assert runs["slow"].data.params == {"lr": "0.3", "end": "prune"}
    history = client.get_metric_history(runs["good"].info.run_id, "loss")
    assert sorted(metric.step for metric in history) == [2, 3, 4, 5]
    assert [file.path for file in client.list_artifacts(parent)] == ["report.html"]


@needs_all
def test_wandb_offline(tracked: Path) -> None:
    runs = wandb_runs(tracked / "wandb")
    assert set(runs) == {"good", "bad", "slow", "report"}
    assert {run["group"] for run in runs.values()} == {"g"}
    assert {name: run["exit"] for name, run in runs.items()} == {"good": 0, "bad": 1, "slow": 0, "report": 0}
    assert runs["slow"]["config"]["lr"] == "0.3"
    assert runs["good"]["steps"] == [2, 3, 4, 5]


@needs_all
def test_any_lightning_logger(tracked: Path) -> None:
    values = rows(tracked / "lightning" / "good" / "metrics.csv")
    assert [row["step"] for row in values if row["loss"]] == ["2", "3", "4", "5"]
    assert "lr: 0.3" in (tracked / "lightning" / "slow" / "hparams.yaml").read_text(encoding="utf-8")
    of_all = rows(tracked / "one" / "all" / "metrics.csv")
    assert {"good/loss", "bad/loss", "slow/loss"} <= set(of_all[0])


@needs_all
def test_trackers_of_the_jobs_own_stay_apart(
    new_gang: Callable[[int], Gang], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, others = new_gang(2).run(HOME + "with_trackers_of_their_own", tmp_path)
    assert report["statuses"] == others["statuses"] == ["finished", "finished", "failed", "failed"]
    assert report["after"] == report["before"], "what the program itself had is there still, and no more is left open"
    ends = {"0.1": 0, "0.2": 0, "0.3": 1, "0.4": 1}
    runs = wandb_runs(tmp_path)
    assert {name: (run["group"], run["exit"]) for name, run in runs.items()} == {
        f"own-{lr}": (f"group-{lr}", end) for lr, end in ends.items()
    }
    assert {tuple(run["steps"]) for run in runs.values()} == {(0, 1, 2, 3)}
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    for lr, end in ends.items():
        client = mlflow.MlflowClient(tracking_uri=f"file:{tmp_path}/mlflow-{lr}")
        [run] = client.search_runs([client.get_experiment_by_name(f"own-{lr}").experiment_id])
        assert (run.info.status, run.data.params) == ("FAILED" if end else "FINISHED", {"lr": lr})
        assert len(client.get_metric_history(run.info.run_id, "loss")) == 4


def test_a_tracker_that_fails_is_reported_once_and_left_out(gangs: Callable[[int], Gang], tmp_path: Path) -> None:
    for statuses, notices in gangs(2).run(HOME + "with_a_tracker_that_fails", tmp_path):
        assert statuses == ["finished", "finished"]
        assert len([text for text in notices if "the disk is full" in text]) == 1


@pytest.fixture
def command_run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs ``motet run`` on a tiny jobs file in a folder of its own."""
    (tmp_path / "jobs.yaml").write_text(
        "jobs:\n"
        "  narrow: {call: 'tests.integrations.tracked_jobs:train', with: {lr: 0.1}}\n"
        "  wide: {call: 'tests.integrations.tracked_jobs:train', with: {lr: 0.2}}\n",
        encoding="utf-8",
    )

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "motet", "run", "jobs.yaml", "--run-dir", "out", *options],
            cwd=tmp_path,
            env={**os.environ, **QUIET, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@needs_all
@pytest.mark.parametrize("house", ["together", "process"])
def test_the_command_takes_trackers_by_name(
    command_run: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    house: str,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlflow")
    ended = command_run("--house", house, "--tracker", "tensorboard", "--tracker=csv", "--tracker", "mlflow")
    assert ended.returncode == 0, ended.stderr
    assert "did not take" not in ended.stderr
    assert list((tmp_path / "out" / "trackers" / "tensorboard" / "wide").glob("events.*"))
    assert len(rows(tmp_path / "out" / "trackers" / "csv" / "narrow" / "metrics.csv")) == 4
    assert list((tmp_path / "mlflow").glob("*/*/artifacts/report.html")), "the report is an artifact"


def test_an_unknown_tracker_is_refused_before_anything_starts(
    command_run: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    ended = command_run("--tracker", "tensorbord")
    assert ended.returncode == 2
    assert "did you mean 'tensorboard'" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_check_trackers_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"pip install 'motet\[wandb\]'"):
        check_trackers(["csv", "wandb"])


def test_without_a_package_the_message_says_what_to_install() -> None:
    report = run_python(
        "import importlib\n"
        "from motet.errors import UsageError\n"
        "for name in ('tensorboard', 'mlflow', 'wandb', 'optuna'):\n"
        "    try:\n"
        "        importlib.import_module(f'motet.integrations.{name}')\n"
        "    except UsageError as error:\n"
        "        print(isinstance(error, ImportError), error)\n",
        without=["tensorboard", "mlflow", "wandb", "optuna"],
    )
    for name, line in zip(("tensorboard", "mlflow", "wandb", "optuna"), report.splitlines(), strict=True):
        assert line.startswith("True")
        assert f"pip install 'motet[{name}]'" in line
