"""Two jobs of a run that write one file: found when the second comes, and reported with what to do.

Python's audit events say what happens to files, on which thread and so in which job (`hook`); libraries that write
past Python are reported by their own functions (`libraries`, and torch's writer through the seams). What only *may*
write (a file opened to be changed, a database, a path that is given to another program) is looked at when the turn
ends. Nothing is looked at that is only read, so that common data costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from motet.checkpoints.gang import SavingGang
from motet.config import OnSameFile
from motet.errors import SameFileError
from motet.handle import running_job
from motet.jobs import Job
from motet.jobs.outcome import JobStopped
from motet.same_files.children import Children
from motet.same_files.hook import FileEvents
from motet.same_files.ledger import Clash, Ledger, Signature
from motet.same_files.libraries import Libraries
from motet.same_files.notices import REMEDY, ClashNotices, describe, with_remedy
from motet.same_files.outputs import GivenOutputs
from motet.same_files.paths import Places, arguments_of
from motet.workers.agreement import Agreements
from motet.workers.messages import FilesReport

MOST_LOOKED_AT = 128
_active: SameFiles | None = None
_aside = threading.local()


def about_to_write(path: object) -> None:
    """Say that the code that runs is about to write ``path`` in a way that Python does not see."""
    if _active is not None:
        _active.events.about_to_write(path)


def report_and_write(original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call what writes the file that is its first argument to be a path."""
    for path in (*args, *kwargs.values()):
        if isinstance(path, str | os.PathLike):
            about_to_write(path)
            break
    return original(*args, **kwargs)


def about_to_start(thread: threading.Thread) -> None:
    """Say that the code that runs is about to start a thread, whose files are then its job's."""
    if _active is not None:
        _active.events.about_to_start(thread)


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """What is done to files in the block is no job's doing, though a job has its turn."""
    before = getattr(_aside, "on", False)
    _aside.on = True
    try:
        yield
    finally:
        _aside.on = before


class SameFiles:
    """Watches the files of one run's jobs on this worker.

    ``notice(job, text)`` notifies the user of something, once. On ``error`` the run ends with a `SameFileError`, if it
    can before anything is overwritten; on ``stop-job`` the job that came second ends as failed, on all workers alike.
    """

    def __init__(
        self,
        workers: SavingGang,
        on_same_file: OnSameFile,
        run_dir: Path | None,
        notice: Callable[[str | None, str], None],
        ledger: Ledger | None = None,
    ) -> None:
        self._workers = workers
        self._answer = on_same_file
        self._places = Places(run_dir)
        self._notice = notice
        self._lock = threading.RLock()
        self._ledger = ledger or Ledger()
        self._outputs = GivenOutputs()
        self._children = Children()
        self.events = FileEvents(_running, self, self._children)
        self._libraries: Libraries | None = None
        self._clashes: list[Clash] = []  # not reported yet
        self._notices = ClashNotices()
        self._doubtful: dict[str, dict[str, tuple[int, Signature]]] = {}  # what a job may write, how it stood, and when
        self._doomed: dict[str, str] = {}  # jobs to be stopped, and why
        self._num_published = 0
        self._num_read: dict[int, int] = {}
        self._error: SameFileError | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch for the duration of the block. Blocks do not nest."""
        global _active
        self.events.listen()
        self._libraries = Libraries(about_to_write)
        _active = self
        try:
            yield
        finally:
            _active = None
            self.events.close()
            self._libraries.close()
            self._read_children()
            self._children.close()

    def joined(self, job: Job) -> None:
        """Take note of a job that is about to begin, and of where it is to write."""
        self._outputs.note(job)

    def turn_begins(self, job: str) -> None:
        """A job is about to compute."""
        for text in self._outputs.take():
            self._notice(None, text)
        doubtful = self._doubtful.get(job)
        if doubtful:
            begin = time.monotonic_ns()
            for path in doubtful:
                doubtful[path] = begin, _signature(path)

    def turn_ended(self, job: str) -> None:
        """A job has computed: report what came up. Raises `SameFileError` where that is asked for."""
        if self._children.due():
            self._read_children()
        if doubtful := self._doubtful.get(job):
            for path, (since, before) in list(doubtful.items()):
                now = _signature(path)
                if now == before == (None, None):  # an argument of a command that named no file
                    del doubtful[path]
                if now != before:
                    doubtful[path] = since, now
                    with self._lock:
                        clash = self._ledger.changed(job, path, since, now)
                    self._found(clash, too_late=True)
        if self._clashes:
            with self._lock:
                clashes, self._clashes = self._clashes, []
            for clash in clashes:
                self._report(clash)
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Report all such files once more, on worker 0, with those that other workers have found."""
        self._receive(range(1, self._workers.num_workers))
        for clash in self._clashes:  # of threads that went on
            self._report(clash)
        if self._workers.worker == 0:
            for text in self._notices.at_the_end():
                self._notice(None, text)

    # What all workers must know

    def state_for_agreement(self, names: Sequence[str]) -> FilesReport:
        """Return what this worker reports to the others: which job it wants stopped, and how much it has published."""
        doomed = next((name for name in self._doomed if name in names), None)
        return FilesReport(0.0 if doomed is None else names.index(doomed) + 1.0, float(self._num_published))

    def to_stop(self, agreements: Agreements, names: Sequence[str]) -> dict[str, JobStopped]:
        """Return the jobs that all workers report are to be stopped; worker 0 repeats what others have published."""
        if not (reports := agreements.take_files()):
            return {}
        self._receive([worker for worker, of in enumerate(reports) if of.num_published > self._num_read.get(worker, 0)])
        stopped = {}
        for name in {names[int(of.job_to_stop) - 1] for of in reports if of.job_to_stop}:
            why = self._doomed.pop(name, "writes a file that another job of this run has written, on another worker")
            stopped[name] = JobStopped("failed", f"job '{name}' {why}; it was ended, as --on-same-file stop-job asks")
        return stopped

    def _receive(self, workers: Sequence[int]) -> None:
        if self._workers.worker != 0:
            return
        for worker in workers:
            number = self._num_read.get(worker, 0) + 1
            while worker and (text := self._workers.lookup(f"same-file/{worker}/{number}")) is not None:
                self._workers.unpublish(f"same-file/{worker}/{number}")
                self._num_read[worker] = number
                self._report(Clash(**json.loads(text)))
                number += 1

    def _read_children(self) -> None:
        for method, args in self._children.received():
            with contextlib.suppress(SameFileError):  # it is raised at the turn's end
                getattr(self, method)(*args)

    # What happens to files; called on any thread, in the middle of it

    def writes(self, job: str, path: object) -> None:
        """A file is opened to be written anew."""
        if (found := self._places.resolve(path)) is not None:
            with self._lock:
                clash = self._ledger.writes(job, found)
            self._found(clash)

    def makes(self, job: str, path: object, folder: int = -1) -> None:
        """A file is made that was not there."""
        if (found := self._places.resolve(path, folder, follow=False)) is not None:
            with self._lock:
                self._ledger.makes(job, found)

    def appends(self, job: str, path: object) -> None:
        """A file is opened to add to it."""
        if (found := self._places.resolve(path)) is not None:
            with self._lock:
                self._ledger.appends(job, found)

    def may_write(self, job: str, path: object, folder: int | str = -1) -> None:
        """A file may be changed from now on: the end of the turn shows it."""
        found = self._places.resolve(path, folder)
        if found is None or os.path.isdir(found):
            return
        doubtful = self._doubtful.setdefault(job, {})
        if found not in doubtful:
            if len(doubtful) >= MOST_LOOKED_AT:
                del doubtful[next(iter(doubtful))]
            doubtful[found] = time.monotonic_ns(), _signature(found)

    def runs(self, job: str, command: object, folder: object = None) -> None:
        """Another program is started, and may write what its arguments name."""
        start = os.getcwd() if folder is None else os.fsdecode(folder)  # type: ignore[arg-type]
        for argument in arguments_of(command, start):
            self.may_write(job, argument, start)

    def removes(self, job: str, path: object, folder: int = -1) -> None:
        """A file is removed."""
        if (found := self._places.resolve(path, folder, follow=False)) is not None:
            with self._lock:
                clash = self._ledger.removes(job, found)
            self._found(clash)

    def renames(self, job: str, source: object, target: object, source_folder: int, target_folder: int) -> None:
        """A file or a folder gets another name."""
        before = self._places.resolve(source, source_folder, follow=False)
        after = self._places.resolve(target, target_folder, follow=False)
        if before is not None and os.path.islink(before):  # to whatever came last: the link is nobody's work
            return
        with self._lock:
            if after is None:
                clashes = [self._ledger.removes(job, before, "renames")] if before is not None else []
            elif before is None:
                clashes = [self._ledger.writes(job, after, "replaces")]
            else:
                clashes = [*self._ledger.renames(job, before, after)]
        for clash in clashes:
            self._found(clash)

    def _found(self, clash: Clash | None, *, too_late: bool = False) -> None:
        if clash is None:
            return
        with self._lock:
            self._clashes.append(clash)
            if self._answer == "error" and self._error is None:
                self._error = SameFileError(f"Job '{clash.job}' {describe(clash)}. {REMEDY}.")
        if self._error is not None and not too_late:
            raise self._error  # in the job, before anything is lost

    # What is reported

    def _report(self, clash: Clash) -> None:
        if self._workers.worker != 0 and self._notices.is_news(clash):
            self._num_published += 1
            self._workers.publish(f"same-file/{self._workers.worker}/{self._num_published}", json.dumps(asdict(clash)))
        if (text := self._notices.take(clash)) is None:
            return
        if self._answer == "stop-job":
            self._doomed.setdefault(clash.job, text)
        self._notice(clash.job, with_remedy(text))


def _running() -> str | None:
    return None if getattr(_aside, "on", False) else running_job()


def _signature(path: str) -> Signature:
    """Return what changes when a file is written; a database's journal of what is written belongs to it."""
    return _stat(path), _stat(path + "-wal")


def _stat(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
