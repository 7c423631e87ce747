"""Trackers that a framework has itself: two jobs use them at once, and each has runs of its own, whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.integrations.conftest import NUM_WORKERS, skip_without
from tests.integrations.loops_tracked import NUM_STEPS
from tests.integrations.wandb_files import wandb_runs

from motet.testing import Gang

MISSING = [name for name in ("tensorboard", "mlflow", "wandb") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}; pip install -e '.[trackers]'")

# By which names the trackers of a framework know the loss (TensorBoard and W&B, MLflow), and the learning rate.
NAMES = {
    "lightning": ("loss_step", "loss_step", "lr"),
    "hugging_face": ("train/loss", "loss", "learning_rate"),
    "accelerate": ("loss", "loss", "lr"),
}


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    """Return workers in which W&B's settings have never been read outside of a job."""
    with Gang(NUM_WORKERS, timeout_seconds=60, environment={"OMP_NUM_THREADS": "1", "CI": ""}) as gang:
        yield gang


@pytest.mark.parametrize("framework", NAMES)
def test_each_job_has_runs_of_its_own(
    framework: str, gang: Gang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    skip_without(f"loops_{framework}")
    given = gang.run("tests.integrations.loops_tracked:two_of", framework, tmp_path)[0]
    assert [len(losses) for losses in given.values()] == [NUM_STEPS] * 2
    one, other = given.values()
    assert one[1:] != other[1:], "each has a training of its own"

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = pytest.importorskip("mlflow").MlflowClient(tracking_uri=f"file:{tmp_path}/mlflow")
    experiment = client.get_experiment_by_name("frameworks").experiment_id
    stored = client.search_runs([experiment])
    in_mlflow = {run.info.run_name: run for run in stored}
    in_wandb = wandb_runs(tmp_path)
    in_tensorboard = {path.name for path in (tmp_path / "tensorboard").iterdir()}
    assert set(in_mlflow) == set(in_wandb) == in_tensorboard == set(given)
    assert len(stored) == 2

    loss, loss_in_mlflow, rate = NAMES[framework]
    for name, losses in given.items():
        events = EventAccumulator(str(tmp_path / "tensorboard" / name)).Reload()
        assert [event.value for event in events.Scalars(loss)] == pytest.approx(losses, rel=1e-6), "as 32-bit floats"

        run = in_mlflow[name]
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, loss_in_mlflow)
        assert [metric.value for metric in sorted(history, key=lambda metric: metric.step)] == losses
        assert run.data.params[rate] == name.removeprefix("lr-")

        wandb_run = in_wandb[name]
        assert (wandb_run["exit"], wandb_run["group"]) == (0, f"group of {name}")
        assert [entry[loss] for entry in wandb_run["history"] if loss in entry] == losses
        assert json.loads(wandb_run["config"][rate]) == float(name.removeprefix("lr-"))
