"""What trackers keep one of per process; with the real libraries where they are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TWO_JOBS = """
import sys
from motet import isolation

def job(uri, steps):
    import mlflow
    from mlflow.tracking._tracking_service.utils import _get_store
    assert mlflow.active_run() is None
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("one")
    run = mlflow.start_run()
    for step in range(steps):
        yield
        assert mlflow.get_tracking_uri() == uri
        assert mlflow.active_run() is run
        mlflow.log_metric("loss", 0.5, step=step, synchronous=False)
    mlflow.end_run()
    _get_store()._async_logging_queue._at_exit_callback()  # which it has registered: a job ends as a process would
    assert len(mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")) == steps
    while True:
        yield

assert "mlflow" not in sys.modules
outside = isolation.take_all()
jobs = [job(sys.argv[1], 2), job(sys.argv[1], 4), job(sys.argv[2], 3)]
saved = [outside.copy() for _ in jobs]
for _ in range(6):
    for i, one in enumerate(jobs):
        outside = isolation.exchange(saved[i])
        next(one)
        saved[i] = isolation.exchange(outside)
import mlflow
assert not mlflow.is_tracking_uri_set()
assert mlflow.active_run() is None
"""


def test_each_job_has_its_own_run_address_and_store_of_mlflow(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TWO_JOBS, f"file:{tmp_path}/one", f"file:{tmp_path}/other"],
        check=True,
        env=environment | {"MLFLOW_ALLOW_FILE_STORE": "true"},
        timeout=60,
    )
