"""Where each job's lines go: worker 0's to the terminal with the job's name, everybody's to a log of the job."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from motet.handle import current_job
from motet.isolation import loggers
from motet.output.streams import JobLog, JobStream, Terminal
from motet.run_dir import log_name


class JobOutput:
    """The streams of all jobs of this worker. With ``everybody`` the other workers' lines are shown as well."""

    def __init__(
        self,
        worker: int,
        job_dir: Callable[[str], Path | None],
        *,
        everybody: bool,
        streams: tuple[TextIO, TextIO] | None = None,
    ) -> None:
        self._worker = worker
        self._job_dir = job_dir
        self._everybody = everybody
        self._terminal = Terminal()
        self._stdout, self._stderr = streams or (sys.stdout, sys.stderr)
        self._open: dict[str, tuple[JobStream, JobStream, JobLog | None]] = {}
        self._thread = threading.get_ident()

    def notify_user(self, text: str) -> None:
        """Say something of Motet's own to the user, on worker 0, between the jobs' lines."""
        if self._worker == 0:
            for line in text.splitlines():
                self._terminal.write_line(self._stderr, f"motet: {line}")

    def start(self, job: str) -> None:
        """Put the job's streams in place; to be called in its first turn (isolation keeps them its own)."""
        folder = self._job_dir(job)
        log = None if folder is None else JobLog(folder / log_name(self._worker))
        shown = self._worker == 0 or self._everybody
        prefix = f"[{job}] " if not self._everybody else f"[{job}/{self._worker}] "
        out, err = (
            JobStream(
                job,
                terminal=self._terminal,
                echo=stream if shown else None,
                log=log,
                prefix=prefix,
                instead=lambda number=number: self._instead(job, number),  # type: ignore[misc]
            )
            for number, stream in enumerate((self._stdout, self._stderr))
        )
        self._open[job] = (out, err, log)
        loggers.redirect((sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__), out, err)
        sys.stdout, sys.stderr = out, err
        if shown and sys.__stderr__ is not None and sys.__stderr__.isatty():
            # Bars and tables have to fit beside the name. (The environment is the job's own, too.)
            os.environ["COLUMNS"] = str(max(shutil.get_terminal_size().columns - len(prefix), 40))

    def _instead(self, owner: str, number: int) -> TextIO | None:
        """Return who gets what is written to ``owner``'s stream now, if not ``owner``.

        A library that a job was the first to import may hold that job's streams (a log handler does). On the main
        thread, what is written there in another job's turn is that job's.
        """
        if threading.get_ident() != self._thread:
            return None
        running = current_job().name
        if running != owner and running in self._open:
            out, err, _ = self._open[running]
            return err if number else out
        if owner not in self._open:  # it has ended, and nobody has the turn
            return (self._stdout, self._stderr)[number] if self._worker == 0 or self._everybody else None
        return None

    def end(self, job: str) -> None:
        """Write what the job left without an end of line, and close its log."""
        if job in self._open:
            out, err, log = self._open.pop(job)
            out.finish()
            err.finish()
            if log is not None:
                log.close()
