"""What Python reports of files: its audit events, on every thread, with the job to which they belong.

An audit hook cannot be taken away again. So there is one for the life of the process, and a table of what it does,
which is empty while no run is under way (then an event costs 0.15 µs).
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from motet.same_files.paths import path_of_database

Event = tuple[Any, ...]

_handlers: dict[str, Callable[[Event], None]] = {}
_added = False
_listening: FileEvents | None = None
_WRITING = os.O_WRONLY | os.O_RDWR


def _hook(event: str, args: Event, _get: Any = _handlers.get) -> None:
    if (handler := _get(event)) is not None:
        handler(args)


def _after_fork() -> None:
    if _listening is not None:
        _listening.go_on_in_child()


def _has_forked() -> None:
    if _listening is not None:
        _listening._in_child.forked()


class FileEvents:
    """Passes on what happens to files, with the job that does it.

    ``running()`` names the job that has its turn; threads that a job starts are its own for as long as they live.
    ``take`` has the methods `writes`, `appends`, `makes`, `may_write`, `runs`, `removes`, `renames`, each called with a
    job and unresolved paths. ``in_child`` stands for ``take`` in processes that a job forks.
    """

    def __init__(self, running: Callable[[], str | None], take: Any, in_child: Any) -> None:
        self._running = running
        self._take = take
        self._in_child = in_child
        self._main = threading.get_ident()
        self._threads: weakref.WeakKeyDictionary[threading.Thread, str] = weakref.WeakKeyDictionary()
        self._whole: str | None = None

    def of_job(self, job: str) -> None:
        """From now on all that happens in this process is ``job``'s, on whichever thread."""
        self._whole = job

    def listen(self) -> None:
        """Begin to listen. One at a time in a process."""
        global _added, _listening
        assert not _handlers
        _listening = self
        if not _added:
            _added = True
            sys.addaudithook(_hook)
            os.register_at_fork(after_in_child=_after_fork, after_in_parent=_has_forked)
        _handlers.update(
            {
                "open": self._open,
                "os.rename": self._rename,
                "os.link": self._link,
                "os.remove": self._remove,
                "os.truncate": self._truncate,
                "sqlite3.connect": self._connect,
                "subprocess.Popen": self._start_child,
                "os.posix_spawn": self._start_child,
                "os.system": self._start_shell,
            }
        )

    def close(self) -> None:
        """Listen no more."""
        global _listening
        _listening = None
        _handlers.clear()

    def go_on_in_child(self) -> None:
        """After a fork, in the child: pass everything on to the parent, or be quiet where no job forked it."""
        if self.job() is None:
            self.close()
        self._take = self._in_child

    def job(self) -> str | None:
        """Return the job whose code runs on this thread, None for anybody else's."""
        if self._whole is not None:
            return self._whole
        if threading.get_ident() == self._main:
            return self._running()
        thread = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]  # asks without making one
        return None if thread is None else self._threads.get(thread)

    def about_to_start(self, thread: threading.Thread) -> None:
        """Take note of who starts a thread: before Python 3.13 there is no audit event."""
        if (job := self.job()) is not None:
            self._threads[thread] = job

    def about_to_write(self, path: object) -> None:
        """The code that runs writes a file in a way that no event reports."""
        if (job := self.job()) is not None:
            self._take.writes(job, path)

    def _open(self, args: Event) -> None:
        path, _, flags = args
        if not isinstance(flags, int) or not flags & _WRITING or isinstance(path, int):
            return
        if (job := self.job()) is None or os.path.isdir(path):  # in a folder, `tempfile` makes files without a name
            return
        if flags & os.O_APPEND:
            self._take.appends(job, path)
        elif flags & os.O_EXCL:  # nobody's: it was not there
            self._take.makes(job, path)
        elif flags & os.O_TRUNC:
            self._take.writes(job, path)
        else:  # to read and to write, or to fill by and by: what is done with it will show
            self._take.may_write(job, path)

    def _rename(self, args: Event) -> None:
        if (job := self.job()) is not None:
            source, target, source_folder, target_folder = args
            self._take.renames(job, source, target, source_folder, target_folder)

    def _remove(self, args: Event) -> None:
        if (job := self.job()) is not None:
            self._take.removes(job, *args)

    def _truncate(self, args: Event) -> None:
        if (job := self.job()) is not None:
            self._take.writes(job, args[0])

    def _connect(self, args: Event) -> None:
        if (path := path_of_database(args[0])) is not None and (job := self.job()) is not None:
            self._take.may_write(job, path)

    def _start_child(self, args: Event) -> None:
        if (job := self.job()) is not None:
            self._take.runs(job, args[1], args[2] if len(args) > 3 else None)

    def _start_shell(self, args: Event) -> None:
        if (job := self.job()) is not None:
            self._take.runs(job, args[0])

    def _link(self, args: Event) -> None:
        if (job := self.job()) is not None:
            self._take.makes(job, args[1], args[3])
