"""TensorBoard: a folder of events for each job, so that TensorBoard shows them side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from motet.integrations.trackers import Tracker, plain

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    from motet.integrations.extras import missing

    raise missing("tensorboard", "tensorboard", error) from None


class TensorBoard(Tracker):
    """Write ``FOLDER/<job>``: scalars by turn, parameters and last values as hparams, the status as text."""

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self._folder = Path(folder).absolute()  # a job may change the working directory
        self._writers: dict[str, SummaryWriter] = {}
        self._parameters: dict[str, dict[str, str | int | float | bool]] = {}
        self._last: dict[str, dict[str, float]] = {}

    @classmethod
    def in_run_dir(cls, run_dir: Path, run: str) -> TensorBoard:
        """Return the tracker that ``--tracker tensorboard`` makes."""
        return cls(run_dir / "trackers" / "tensorboard")

    def begin_job(self, job: str) -> None:
        """Forget what an earlier job of the name had."""
        self._parameters[job], self._last[job] = {}, {}

    def parameters(self, job: str, values: Mapping[str, object]) -> None:
        """Keep them for the end: hparams go with the last values."""
        self._parameters[job].update({name: plain(value) for name, value in values.items()})

    def metrics(self, job: str, turn: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Write scalars. A job that goes on from a checkpoint replaces what it had written from that turn on."""
        if job not in self._writers:
            self._writers[job] = SummaryWriter(str(self._folder / job), purge_step=turn)
        for name, value in values.items():
            self._writers[job].add_scalar(name, value, global_step=turn, walltime=unix_time)
        self._last[job].update(values)

    def end_job(self, job: str, status: str, turns: int) -> None:
        """Write hparams and the status, and close."""
        writer = self._writers.pop(job, None) or SummaryWriter(str(self._folder / job))
        writer.add_text("status", f"{status} after {turns} turns", global_step=turns)
        last = {f"last/{name}": value for name, value in self._last[job].items()}
        parameters = {**self._parameters[job], "status": status}
        writer.add_hparams(parameters, {**last, "turns": turns}, run_name=".")  # in the job's own folder
        writer.close()
