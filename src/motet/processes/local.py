"""The processes of the jobs on this worker: started, read from, ended."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from motet.output.streams import JobStream, Terminal
from motet.processes.channel import WorkerChannel
from motet.processes.family import processor_seconds
from motet.processes.job_messages import EndReport, FromJob, ResumeReport, Start
from motet.processes.lines import JobLines, open_log, prefix_of
from motet.processes.turn_table import RING, Stretch, Table
from motet.processes.warm_parent import WarmParent
from motet.timing.clocks import Waited
from motet.workers.messages import STOP_NOW

SECONDS_TO_END = 5.0
"""How long a process may take to end by SIGTERM."""


@dataclass
class LocalJob:
    """One job's process on this worker. ``offset``: turns of before a resume; ``still``: since it last moved."""

    start: Start
    pid: int
    channel: WorkerChannel
    lines: JobLines
    offset: int = 0
    ended: EndReport | None = None
    exit_status: int = 0
    read: int = 0
    still: Waited = field(default_factory=Waited)
    stalls: bool = False
    processor_seconds: float = 0.0
    ends: Waited | None = None  # since it was asked to

    @property
    def name(self) -> str:
        """The job's name."""
        return self.start.name


class LocalJobs:
    """All of them. ``table``, ``wake``: of their turns; ``streams``: where lines are shown.

    ``asked``: an eventfd that says that a job asks something.
    """

    def __init__(
        self,
        parent: WarmParent,
        table: Table,
        wake: tuple[int, ...],
        asked: int,
        worker: int,
        job_dir: Callable[[str], Path | None],
        streams: tuple[TextIO, TextIO],
        *,
        everybody: bool,
    ) -> None:
        self._parent = parent
        self.table = table
        self.wake = wake
        self._asked = asked
        self._worker = worker
        self._job_dir = job_dir
        self._streams = streams
        self._everybody = everybody
        self._terminal = Terminal()
        self.live: dict[str, LocalJob] = {}
        self._poll = select.poll()
        self._jobs_by_file: dict[int, LocalJob] = {}

    def start(self, start: Start) -> None:
        """Start a job's process."""
        self.table.open_seat(start.seat)
        here, there = socket.socketpair()
        lines = JobLines(
            start.name,
            self._worker,
            self._terminal,
            self._streams,
            self._job_dir(start.name),
            everybody=self._everybody,
        )
        pid = self._parent.start(start, there, *lines.ends)
        there.close()
        lines.close_ends()
        job = self.live[start.name] = LocalJob(start, pid, WorkerChannel(here), lines)
        for file in (job.channel.file, *lines.files):
            self._poll.register(file, select.POLLIN)
            self._jobs_by_file[file] = job

    def show(self, name: str, text: str) -> None:
        """Show what a job met on another worker as if its process here had printed it: by its name, and in its log."""
        log = open_log(self._job_dir(name), self._worker)
        prefix = prefix_of(name, self._worker, everybody=self._everybody)
        stream = JobStream(name, terminal=self._terminal, echo=self._streams[1], log=log, prefix=prefix)
        stream.write(text.rstrip() + "\n")
        stream.finish()
        if log is not None:
            log.close()

    def pid_of(self, seat: int) -> int | None:
        """Return the process that has a seat."""
        return next((job.pid for job in self.live.values() if job.start.seat == seat), None)

    def offset(self, name: str) -> int:
        """Return how many turns a job had taken before it was resumed."""
        job = self.live.get(name)
        return 0 if job is None else job.offset

    def turns(self, job: LocalJob) -> int:
        """Return how many turns a job has taken, those before a resume included."""
        return self.table.turns(job.start.seat) + job.offset

    def follow(self, names: Sequence[str], after: int) -> None:
        """Have the jobs that live here take turns in this order (`Table.follow`)."""
        seats = [self.live[name].start.seat for name in names if name in self.live]
        if seats:
            self.table.follow(seats, self.wake, after)

    def reports(self) -> Iterator[tuple[LocalJob, FromJob]]:
        """Yield what jobs have reported, and pass on what they have printed; send what they had not read."""
        for job in self.live.values():
            job.channel.flush()
        for file, _ in self._poll.poll(0):
            job = self._jobs_by_file[file]
            if file != job.channel.file:
                job.lines.read(file)
                continue
            for report in job.channel.received():
                if isinstance(report, EndReport):
                    job.ended = report
                elif isinstance(report, ResumeReport):
                    job.offset = report.turns
                elif isinstance(report, FromJob):
                    yield job, report

    def wait_until_asked(self, within_seconds: float) -> None:
        """Wait until a job asks something, or reads what it was sent, not longer than so."""
        ready = select.poll()
        ready.register(self._asked, select.POLLIN)
        for job in self.live.values():
            if job.channel.has_unsent:
                ready.register(job.channel.file, select.POLLOUT)
        if any(file == self._asked for file, _ in ready.poll(1000 * within_seconds)):
            os.eventfd_read(self._asked)

    def stretches(self) -> list[tuple[str, Stretch]]:
        """Return what the jobs computed and synchronized since the last time."""
        found = []
        for job in self.live.values():
            read, stretches = self.table.stretches(job.start.seat, job.read)
            if read != job.read:
                job.read = read
                job.still.begin_again()
            found += [(job.name, stretch) for stretch in stretches]
        return found

    @property
    def stretches_fill_up(self) -> bool:
        """Whether a job has so many stretches unread that the next ones will soon take their place."""
        return any(self.table.written(job.start.seat) - job.read > RING // 2 for job in self.live.values())

    def exited(self) -> list[LocalJob]:
        """Return the jobs whose processes have ended since the last time."""
        found = []
        for each in self._parent.exited():
            job = next((job for job in self.live.values() if job.pid == each.pid), None)
            if job is not None:
                job.exit_status = each.status
                found.append(job)
        return found

    def close(self, job: LocalJob) -> None:
        """Let go of what was a job's; everything it reported has been read."""
        del self.live[job.name]
        for file in (job.channel.file, *job.lines.files):
            self._poll.unregister(file)
            del self._jobs_by_file[file]
        self.table.close_seat(job.start.seat, self.wake)
        job.lines.close()
        job.channel.close()

    def end(self, name: str) -> None:
        """Have a job's process end, if it lives: by SIGTERM, and by SIGKILL when that has taken too long."""
        job = self.live.get(name)
        if job is None:
            return
        self.table.request_stop(job.start.seat, STOP_NOW)
        if job.ends is None:
            job.ends = Waited()
            _signal(job.pid, signal.SIGTERM)

    def kill_late(self) -> None:
        """Kill what was asked to end and has not."""
        for job in self.live.values():
            if job.ends is not None and job.ends.seconds > SECONDS_TO_END:
                _signal(job.pid, signal.SIGKILL)

    def stalled(self, within_seconds: float) -> LocalJob | None:
        """Return a job that has neither come by nor computed for so long; the same one only once."""
        for job in self.live.values():
            if job.still.seconds < within_seconds or job.stalls:
                continue
            seconds = 0.0
            with contextlib.suppress(OSError):
                seconds = processor_seconds(job.pid)
            if seconds - job.processor_seconds > 0.01 * within_seconds:
                job.processor_seconds = seconds
                job.still.begin_again()
            else:
                job.stalls = True
                return job
        return None


def result_of(ended: EndReport | None) -> object:
    """Load what a job's loop returned, and remove the file."""
    if ended is None or ended.result is None:
        return None
    try:
        with open(ended.result, "rb") as file:
            return pickle.load(file)  # written a moment ago by a process of this run
    finally:
        with contextlib.suppress(OSError):
            os.unlink(ended.result)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
