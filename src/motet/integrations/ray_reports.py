"""What a run tells Ray, in the background: checkpoints, metrics, results.

``ray.train.report`` is called by all workers equally often, and each call waits for all of them. No turn of a job is
to wait for that, nor for the storage. So a thread on each worker makes the calls: worker 0's when a job has been saved,
the others' when worker 0 has left word in the store that it makes the next one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray.train
import torch.distributed as dist

from motet.events import Event, JobEnded, JobSaved, MetricsLogged
from motet.results import Results
from motet.workers.group import store_of_program

LOOK_EVERY_SECONDS = 0.5
TRIES = 20
_num_runs = 0


class Reports:
    """An observer of a run in ``place`` that reports to Ray. Use it as a context; call `finish` before its end."""

    changes_nothing_global = True

    def __init__(self, place: Path) -> None:
        self._place = place
        self._leads = dist.get_rank() == 0
        global _num_runs
        _num_runs += 1  # the same on every worker
        self._store = store_of_program(f"motet/ray/{_num_runs}")
        self._metrics: dict[str, Any] = {}
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._final = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="motet-ray-reports", daemon=True)

    def __enter__(self) -> Reports:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._changed.set()

    def observe(self, event: Event) -> None:
        """Take note of what the next report tells, and that one is due."""
        if self._error is not None:
            raise self._error  # told once; `finish` raises it, too
        if isinstance(event, MetricsLogged):
            self._metrics.update({f"{event.job}/{name}": value for name, value in event.values.items()})
        elif isinstance(event, JobEnded):
            self._metrics[f"{event.job}/status"] = event.status
        elif isinstance(event, JobSaved):
            self._changed.set()

    def finish(self, results: Results) -> None:
        """Report the end; blocks until Ray's storage has it. Raises what worker 0 met while it reported."""
        for name, result in results.items():
            self._metrics |= {f"{name}/turn": result.turns, f"{name}/status": result.status}
        self._final = True
        self._changed.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            if self._leads:
                self._lead()
            else:
                self._follow()
        except BaseException as error:
            self._error = error
        finally:
            if self._leads:
                with contextlib.suppress(RuntimeError):
                    self._store.set("over", "")

    def _lead(self) -> None:
        number = 0
        while not self._closing.is_set():
            self._changed.wait()
            self._changed.clear()
            final = self._final
            with _snapshot(self._place, whole=final) as folder:
                if self._closing.is_set() and not final:
                    return
                number += 1
                self._store.set(str(number), "")
                if not final:
                    self._metrics |= _saved_turns(folder)
                ray.train.report(dict(self._metrics), checkpoint=ray.train.Checkpoint.from_directory(folder))
            if final:
                return

    def _follow(self) -> None:
        number = 1
        while not self._closing.is_set():
            if self._store.check([str(number)]):
                ray.train.report({})
                number += 1
            elif self._store.check(["over"]) and not self._store.check([str(number)]):
                return
            else:
                self._closing.wait(LOOK_EVERY_SECONDS)


@contextlib.contextmanager
def _snapshot(place: Path, *, whole: bool) -> Iterator[Path]:
    """Give a folder with what a later start needs of the run in ``place``; with ``whole``, all that its jobs have left.

    The newest checkpoint of each job is there as links to the same files.
    """
    with tempfile.TemporaryDirectory(prefix="motet-report-", dir=place.parent) as made:
        folder = Path(made)
        for name in ("run.json", "results.json"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(place / name, folder / name)
        for job in (place / "checkpoints").glob("*"):
            _link_newest(job, folder / "checkpoints" / job.name)
        for job in (place / "jobs").glob("*"):
            kept = job.rglob("*") if whole else (*job.glob("ended.json"), *job.glob("result.pt"), *job.glob("log*.txt"))
            for path in kept:
                if path.is_file():
                    copy = folder / path.relative_to(place)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, copy)
        yield folder


def _link_newest(checkpoints: Path, into: Path) -> None:
    """Link the files of a job's newest checkpoint, which may be removed meanwhile for a newer one."""
    for _ in range(TRIES):
        newest = max(checkpoints.glob("turn-*"), key=_number, default=None)
        if newest is None:
            return
        copy = into / newest.name
        try:
            copy.mkdir(parents=True)
            for path in newest.iterdir():
                os.link(path, copy / path.name)
            return
        except FileNotFoundError:
            shutil.rmtree(copy, ignore_errors=True)


def _saved_turns(folder: Path) -> dict[str, int]:
    """Return up to which turn each job is saved in a snapshot."""
    return {f"{path.parent.name}/turn": _number(path)[0] for path in folder.glob("checkpoints/*/turn-*")}


def _number(checkpoint: Path) -> list[int]:
    """Return the turn, and the how-many-eth checkpoint of that turn it is."""
    return [int(number) for number in checkpoint.name.removeprefix("turn-").split(".")]
