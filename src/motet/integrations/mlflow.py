"""MLflow: a run for the whole, with a nested run for each job."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motet.integrations.trackers import Tracker, group_name, plain

try:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
except ImportError as error:
    from motet.integrations.extras import missing

    raise missing("mlflow", "mlflow", error) from None

SEND_EVERY_SECONDS = 2.0
MOST_UNSENT = 500  # of MLflow's own limit of 1000 in one request
_STATUSES = {"finished": "FINISHED", "failed": "FAILED", "pruned": "KILLED", "stopped": "KILLED"}


class MLflow(Tracker):
    """Write to an MLflow tracking server or folder: parameters, metrics by turn, status, the report as an artifact.

    ``tracking_uri`` and ``experiment`` default to what MLflow's own variables say (``MLFLOW_TRACKING_URI``,
    ``MLFLOW_EXPERIMENT_NAME``), then to MLflow's default and "motet". With ``group`` a run that goes on finds its
    runs again. MLflow's client is used, not its global active run, which stays the jobs' own.
    """

    def __init__(
        self, *, tracking_uri: str | None = None, experiment: str | None = None, group: str | None = None
    ) -> None:
        super().__init__()
        self._uri = tracking_uri
        self._experiment_name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME", "motet")
        self._may_exist = group is not None
        self._group = group or group_name()
        self._client: Any = None
        self._experiment = ""
        self._parent = ""
        self._runs: dict[str, str] = {}
        self._unsent: dict[str, list[Metric]] = {}
        self._sent: dict[str, float] = {}

    @classmethod
    def in_run_dir(cls, run_dir: Path, run: str) -> MLflow:
        """Return the tracker that ``--tracker mlflow`` makes."""
        return cls(group=f"{run_dir.name}-{run[:8]}")

    def begin_run(self, num_workers: int) -> None:
        """Find or make the experiment and the run that holds the jobs' runs."""
        self._client = MlflowClient(tracking_uri=self._uri)
        found = self._client.get_experiment_by_name(self._experiment_name)
        self._experiment = found.experiment_id if found else self._client.create_experiment(self._experiment_name)
        self._parent = self._run("", self._group, {"motet.num_workers": str(num_workers)})

    def begin_job(self, job: str) -> None:
        """Find or make the job's run."""
        self._unsent[job], self._sent[job] = [], 0.0
        self._runs[job] = self._run(job, job, {"mlflow.parentRunId": self._parent})

    def _run(self, job: str, name: str, tags: dict[str, str]) -> str:
        tags = {"motet.group": self._group, "motet.job": job, "mlflow.runName": name, **tags}
        if self._may_exist:
            wanted = f"tags.`motet.group` = '{self._group}' and tags.`motet.job` = '{job}'"
            for run in self._client.search_runs([self._experiment], wanted):
                self._client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
        return str(self._client.create_run(self._experiment, run_name=name, tags=tags).info.run_id)

    def parameters(self, job: str, values: Mapping[str, object]) -> None:
        """Log them as text, as MLflow keeps them."""
        self._client.log_batch(self._runs[job], params=[Param(name, str(plain(v))) for name, v in values.items()])

    def metrics(self, job: str, turn: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Log them with the turn as the step. They leave together every two seconds: a request would hold up a turn."""
        milliseconds = round(unix_time * 1000)
        self._unsent[job] += [Metric(name, value, milliseconds, turn) for name, value in values.items()]
        if unix_time - self._sent[job] > SEND_EVERY_SECONDS or len(self._unsent[job]) >= MOST_UNSENT:
            self._sent[job] = unix_time
            self._send(job)

    def _send(self, job: str) -> None:
        unsent, self._unsent[job] = self._unsent[job], []
        for begin in range(0, len(unsent), MOST_UNSENT):
            self._client.log_batch(self._runs[job], metrics=unsent[begin : begin + MOST_UNSENT])

    def end_job(self, job: str, status: str, turns: int) -> None:
        """End the job's run; a pruned or stopped one counts as killed, and the tag says which."""
        self._send(job)
        run = self._runs.pop(job)
        self._client.set_tag(run, "motet.status", status)
        self._client.log_batch(run, metrics=[Metric("turns", turns, round(time.time() * 1000), turns)])
        self._client.set_terminated(run, status=_STATUSES[status])

    def end_run(self) -> None:
        """End the run that holds the jobs' runs."""
        self._client.set_terminated(self._parent, status="FINISHED")

    def attach_report(self, report: Path) -> None:
        """Log the report as an artifact of the run that holds the others."""
        self._client.log_artifact(self._parent, str(report))
