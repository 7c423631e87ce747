"""Any Lightning ``Logger`` as a tracker: Comet, Neptune, ClearML, and whatever else Lightning knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from motet.integrations.trackers import Tracker, plain

_STATUSES = {"finished": "success", "failed": "failed", "pruned": "finished", "stopped": "aborted"}


class LightningLoggers(Tracker):
    """Write to a Lightning logger for each job, ``LightningLoggers(lambda job: CSVLogger("logs", name=job))``.

    One logger object, instead of a function, serves all jobs: names of values then begin with the job's.
    Needs nothing but the logger itself.
    """

    def __init__(self, loggers: Callable[[str], Any] | Any) -> None:
        super().__init__()
        self._one: Any = loggers if hasattr(loggers, "log_metrics") else None
        self._make = loggers
        self._loggers: dict[str, Any] = {}

    def begin_job(self, job: str) -> None:
        """Make the job's logger."""
        self._loggers[job] = self._make(job) if self._one is None else self._one

    def _named(self, job: str, values: Mapping[str, Any]) -> dict[str, Any]:
        return dict(values) if self._one is None else {f"{job}/{name}": value for name, value in values.items()}

    def parameters(self, job: str, values: Mapping[str, object]) -> None:
        """Log hyperparameters."""
        self._loggers[job].log_hyperparams(self._named(job, {name: plain(value) for name, value in values.items()}))

    def metrics(self, job: str, turn: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Log metrics with the turn as the step."""
        self._loggers[job].log_metrics(self._named(job, values), step=turn)

    def end_job(self, job: str, status: str, turns: int) -> None:
        """Log the number of turns, save, and say how it ended."""
        logger = self._loggers.pop(job)
        logger.log_metrics(self._named(job, {"turns": float(turns)}), step=turns)
        logger.save()
        if self._one is None:
            logger.finalize(_STATUSES[status])

    def end_run(self) -> None:
        """Say that the one logger of all jobs is done."""
        if self._one is not None:
            self._one.finalize("success")
