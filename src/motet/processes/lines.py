"""What job processes print: read from their pipes, written to the terminal with the job's name and to its log."""

from __future__ import annotations

import codecs
import contextlib
import os
from pathlib import Path
from typing import TextIO

from motet.output.streams import JobLog, JobStream, Terminal
from motet.processes.channel import MOST_READS
from motet.run_dir import log_name

PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031  # linux/fcntl.h


def open_log(job_dir: Path | None, worker: int) -> JobLog | None:
    """Return the log of a job on this worker."""
    return None if job_dir is None else JobLog(job_dir / log_name(worker))


def prefix_of(job: str, worker: int, *, everybody: bool) -> str:
    """Return what a job's lines begin with on the terminal."""
    return f"[{job}/{worker}] " if everybody else f"[{job}] "


class JobLines:
    """The two pipes of one job's process, from the worker's side. Hand ``ends`` to the process, then `close_ends`."""

    def __init__(
        self,
        job: str,
        worker: int,
        terminal: Terminal,
        streams: tuple[TextIO, TextIO],
        job_dir: Path | None,
        *,
        everybody: bool,
    ) -> None:
        self._log = open_log(job_dir, worker)
        shown = worker == 0 or everybody
        prefix = prefix_of(job, worker, everybody=everybody)
        self._streams = tuple(
            JobStream(job, terminal=terminal, echo=stream if shown else None, log=self._log, prefix=prefix)
            for stream in streams
        )
        self._decoders = tuple(codecs.getincrementaldecoder("utf-8")("backslashreplace") for _ in streams)
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in streams]
        self._reads = [read for read, _ in pipes]
        self.ends = [write for _, write in pipes]
        for read, write in pipes:
            os.set_blocking(read, False)
            with contextlib.suppress(OSError):
                _enlarge(write)
        self.last_on_stderr = ""

    def close_ends(self) -> None:
        """Close this process's copies of what the job writes to."""
        for end in self.ends:
            os.close(end)
        self.ends = []

    @property
    def files(self) -> tuple[int, ...]:
        """The open files from which to `read`."""
        return tuple(self._reads)

    def read(self, file: int, reads: int = MOST_READS) -> None:
        """Pass on what the job has printed to one of ``files`` by now, so much of it at most: others are read, too."""
        number = self._reads.index(file)
        for _ in range(reads):
            try:
                data = os.read(file, 1 << 16)
            except BlockingIOError:
                break
            if not data:
                break
            text = self._decoders[number].decode(data)
            self._streams[number].write(text)
            if number == 1 and text.strip():
                self.last_on_stderr = text.strip().splitlines()[-1]

    def close(self) -> None:
        """Pass on the rest; the process has ended."""
        for pipe in self._reads:
            self.read(pipe, reads=1 << 20)
        for stream in self._streams:
            stream.finish()
        for pipe in self._reads:
            os.close(pipe)
        if self._log is not None:
            self._log.close()


def _enlarge(pipe: int) -> None:
    """So that a job that prints much seldom waits for its worker to read."""
    import fcntl

    fcntl.fcntl(pipe, _F_SETPIPE_SZ, PIPE_BYTES)
