"""What a run reports to Ray, in the background: checkpoints, metrics, results.

``ray.train.report`` is called by all workers equally often, and each call waits for all of them. No turn of a job is
to wait for that, nor for the storage. So a thread on each worker makes the calls: worker 0's when a job has been saved,
the others' when worker 0 has published in the store that it makes the next one, or that it cannot.
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

from motet.errors import CheckpointError, MotetError, SyncTimeoutError, WorkerFailedError, pack_error, unpack_error
from motet.events import Event, JobEnded, JobSaved, MetricsLogged
from motet.results import Results
from motet.timing.clocks import Waited
from motet.workers.group import store_of_program

LOOK_EVERY_SECONDS = 0.5
LEAVE_SECONDS = 30.0  # how long a run that ends in an error waits for a report that is under way
TRIES = 20
_num_runs = 0


class Reports:
    """An observer of a run in ``place`` that reports to Ray. Use it as a context; call `finish` before its end.

    ``timeout_seconds``: how long `finish` waits for the last report.
    """

    changes_nothing_global = True

    def __init__(self, place: Path, timeout_seconds: float) -> None:
        self._place = place
        self._timeout_seconds = timeout_seconds
        self._leads = dist.get_rank() == 0
        global _num_runs
        _num_runs += 1  # the same on every worker
        self._store = store_of_program(f"motet/ray/{_num_runs}")
        self._metrics: dict[str, Any] = {}
        self._saved: set[str] = set()  # the jobs that a report must have
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._final = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="motet-ray-reports", daemon=True)

    def __enter__(self) -> Reports:
        self._saved |= _saved_turns(self._place).keys()  # by an earlier start
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._changed.set()
        if self._leads:
            self._thread.join(LEAVE_SECONDS)

    @property
    def copying(self) -> bool:
        """Whether the run's folder may still be read here."""
        return self._leads and self._thread.is_alive()

    def observe(self, event: Event) -> None:
        """Note what the next report holds, and that one is due."""
        if self._error is not None:
            raise self._error  # reported once; `finish` raises it, too
        if isinstance(event, MetricsLogged):
            self._metrics.update({f"{event.job}/{name}": value for name, value in event.values.items()})
        elif isinstance(event, JobEnded):
            self._metrics[f"{event.job}/status"] = event.status
        elif isinstance(event, JobSaved):
            self._saved.add(event.job)
            self._changed.set()

    def finish(self, results: Results) -> None:
        """Report the end; blocks until Ray's storage has it. Raises what worker 0 met while it reported."""
        for name, result in results.items():
            self._metrics |= {f"{name}/turn": result.turns, f"{name}/status": result.status}
        self._final = True
        self._changed.set()
        waited = Waited()
        while self._thread.is_alive():
            self._thread.join(LOOK_EVERY_SECONDS)
            if not self._leads:
                self._raise_what_worker_0_met()  # the thread may be in a report that worker 0 never joins
            if waited.seconds > self._timeout_seconds:
                raise SyncTimeoutError(
                    f"Worker {dist.get_rank()} waited {waited.seconds:.0f} s for worker 0's last report to Ray; the "
                    f"timeout is {self._timeout_seconds:.0f} s. Ray's storage, to which worker 0 copies checkpoints, "
                    "or worker 0 itself stalls. See to the storage, or give a longer timeout_seconds if it needs so "
                    "long; then call fit with the same name and storage_path: jobs go on from the last report."
                )
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            if self._leads:
                self._lead()
            else:
                self._follow()
        except BaseException as error:
            self._error = _failure(error)
        finally:
            if self._leads:
                with contextlib.suppress(RuntimeError):
                    self._store.set("over", pack_error(self._error) if self._error is not None else "")

    def _lead(self) -> None:
        number = 1
        while not self._closing.is_set():
            self._changed.wait()
            self._changed.clear()
            final, saved = self._final, set(self._saved)
            with _snapshot(self._place, whole=final) as folder:
                if self._closing.is_set() and not final:
                    return
                missing = sorted(saved - _saved_turns(folder).keys())
                if not missing:
                    self._report(folder, number, final)
            if missing and final:
                raise CheckpointError(
                    f"Worker 0 found no whole checkpoint of {', '.join(missing)} in {self._place}, where there has "
                    "been one, so it has not reported to Ray: the next start would begin these jobs anew. See that "
                    "nothing else removes files there, then call fit with the same name and storage_path: jobs go on "
                    "from the last report."
                )
            if missing:  # Ray would keep it as the latest, and the next start begin these jobs anew
                self._closing.wait(LOOK_EVERY_SECONDS)
                self._changed.set()
                continue
            number += 1
            if final:
                return

    def _report(self, folder: Path, number: int, final: bool) -> None:
        """Make worker 0's part of a report; the others learn of it when nothing but Ray's part is left to do."""
        if not final:
            self._metrics |= {f"{job}/turn": turn for job, turn in _saved_turns(folder).items()}
        metrics, checkpoint = dict(self._metrics), ray.train.Checkpoint.from_directory(folder)
        self._store.set(str(number), "")
        ray.train.report(metrics, checkpoint=checkpoint)

    def _follow(self) -> None:
        number = 1
        while not self._closing.is_set():
            if self._store.check([str(number)]):
                ray.train.report({})
                number += 1
            elif self._store.check(["over"]) and not self._store.check([str(number)]):
                self._raise_what_worker_0_met()
                return
            else:
                self._closing.wait(LOOK_EVERY_SECONDS)

    def _raise_what_worker_0_met(self) -> None:
        if self._store.check(["over"]) and (packed := self._store.get("over")):
            raise unpack_error(packed.decode())


def _failure(error: BaseException) -> MotetError:
    """Return what to raise to the user for an error met while reporting."""
    if isinstance(error, MotetError):
        return error
    failure = WorkerFailedError(
        f"Worker {dist.get_rank()} could not report to Ray: {type(error).__name__}: {error}. What jobs have saved "
        "since the last report is not in Ray's storage. See that the storage and the workers' temporary folders can "
        "be written and have room, then call fit with the same name and storage_path: jobs go on from the last "
        "report."
    )
    failure.__cause__ = error
    return failure


@contextlib.contextmanager
def _snapshot(place: Path, *, whole: bool) -> Iterator[Path]:
    """Give a folder with what a later start needs of the run in ``place``; with ``whole``, all that its jobs have left.

    The newest checkpoint of each job is there as links to the same files, or as copies where there are no links. It is
    missing if a newer one has come again and again meanwhile.
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
                _link_or_copy(path, copy / path.name)
            return
        except FileNotFoundError:
            shutil.rmtree(copy, ignore_errors=True)


def _link_or_copy(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links, or one that allows no more of them
        shutil.copyfile(path, copy)


def _saved_turns(folder: Path) -> dict[str, int]:
    """Return up to which turn each job is saved in a snapshot, or in a run's folder."""
    return {path.parent.name: _number(path)[0] for path in folder.glob("checkpoints/*/turn-*")}


def _number(checkpoint: Path) -> list[int]:
    """Return the turn, and the how-many-eth checkpoint of that turn it is."""
    return [int(number) for number in checkpoint.name.removeprefix("turn-").split(".")]
