"""Files that every program reads: ``FOLDER/<job>/metrics.csv``, ``parameters.csv``, and ``FOLDER/jobs.csv``."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TextIO

from motet.integrations.trackers import Tracker, plain
from motet.run_dir import make_folder, opener


class CsvFiles(Tracker):
    """Write one line a logged value: ``turn,time,name,value``. Time is in unix seconds.

    A run that goes on appends: the later line of a turn counts. ``jobs.csv`` holds ``job,status,turns``.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self._folder = Path(folder).absolute()  # a job may change the working directory
        self._files: dict[str, TextIO] = {}

    @classmethod
    def in_run_dir(cls, run_dir: Path, run: str) -> CsvFiles:
        """Return the tracker that ``--tracker csv`` makes."""
        return cls(run_dir / "trackers" / "csv")

    def begin_job(self, job: str) -> None:
        """Open the job's file."""
        self._files[job] = _open(self._folder / job / "metrics.csv", "turn,time,name,value")

    def parameters(self, job: str, values: Mapping[str, object]) -> None:
        """Append ``name,value``."""
        _append(self._folder / job / "parameters.csv", "name,value", [(k, plain(v)) for k, v in values.items()])

    def metrics(self, job: str, turn: int, unix_time: float, values: Mapping[str, float]) -> None:
        """Append a line for each value."""
        csv.writer(self._files[job]).writerows((turn, f"{unix_time:.3f}", k, v) for k, v in values.items())
        self._files[job].flush()

    def end_job(self, job: str, status: str, turns: int) -> None:
        """Close the job's file and note how it ended."""
        self._files.pop(job).close()
        _append(self._folder / "jobs.csv", "job,status,turns", [(job, status, turns)])


def _open(path: Path, header: str) -> TextIO:
    make_folder(path.parent)
    file = open(path, "a", newline="", encoding="utf-8", opener=opener)  # noqa: SIM115  # the caller's
    if file.tell() == 0:
        file.write(f"{header}\r\n")
    return file


def _append(path: Path, header: str, rows: Iterable[tuple[object, ...]]) -> None:
    with _open(path, header) as file:
        csv.writer(file).writerows(rows)
