"""Weights & Biases: a run for each job, in one group."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motet.integrations.trackers import Tracker, group_name, plain
from motet.run_dir import make_folder

try:
    import wandb
except ImportError as error:
    from motet.integrations.extras import missing

    raise missing("wandb", "wandb", error) from None


class WandB(Tracker):
    """Write a run for each job: config, values by turn, status in the summary, the report as an artifact.

    ``project`` defaults to ``WANDB_PROJECT``, then "motet"; ``mode="offline"`` (or ``WANDB_MODE``) writes to
    ``folder`` alone, for ``wandb sync``. The runs are made beside the global one (``wandb.run``), which stays the
    jobs' own.
    """

    def __init__(
        self,
        *,
        project: str | None = None,
        group: str | None = None,
        mode: str | None = None,
        folder: Path | str | None = None,
    ) -> None:
        super().__init__()
        self._project = project or os.environ.get("WANDB_PROJECT", "motet")
        self._group = group or group_name()
        self._mode = mode
        self._folder = None if folder is None else Path(folder).absolute()
        self._runs: dict[str, Any] = {}

    @classmethod
    def in_run_dir(cls, run_dir: Path, run: str) -> WandB:
        """Return the tracker that ``--tracker wandb`` makes."""
        return cls(group=f"{run_dir.name}-{run[:8]}", folder=run_dir / "trackers")

    def begin_job(self, job: str) -> None:
        """Begin the job's run; blocks until W&B has, a second or so."""
        self._runs[job] = self._run(job, "job")

    def _run(self, name: str, kind: str) -> Any:
        if self._folder is not None:
            make_folder(self._folder)
        mode: Any = self._mode
        return wandb.init(
            project=self._project,
            group=self._group,
            name=name,
            job_type=kind,
            dir=None if self._folder is None else str(self._folder),
            mode=mode,
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )

    def parameters(self, job: str, values: Mapping[str, object]) -> None:
        """Put them into the run's config."""
        changed = {name: plain(value) for name, value in values.items()}
        self._runs[job].config.update(changed, allow_val_change=True)

    def metrics(self, job: str, turn: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Log them with the turn as the step."""
        self._runs[job].log(dict(values), step=turn)

    def end_job(self, job: str, status: str, turns: int) -> None:
        """End the run; blocks until W&B has written it."""
        run = self._runs.pop(job)
        run.summary.update({"status": status, "turns": turns})
        run.finish(exit_code=1 if status == "failed" else 0)

    def attach_report(self, report: Path) -> None:
        """Log the report as an artifact of a run of its own in the group."""
        run = self._run("report", "report")
        artifact = wandb.Artifact(f"{self._group}-report", type="report")
        artifact.add_file(str(report))
        run.log_artifact(artifact)
        run.finish()
