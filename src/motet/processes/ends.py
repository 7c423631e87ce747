"""What came of a job, from how its process ended on each worker."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from motet.results import Status

# What a process meets when another one of the same job has gone.
_ECHO = re.compile(r"Connection closed by peer|Connection reset by peer|Broken pipe|Socket closed|lost the store")


def is_echo(error: str) -> bool:
    """Whether an error is but the end of another process of the same job, which met something of its own."""
    return _ECHO.search(error) is not None


@dataclass(frozen=True, slots=True)
class End:
    """How one process of a job ended. ``status``: what its loop reported, ``""`` if it could report nothing any more.

    ``exit_status``: negative for a signal; ``asked``: this run had asked it to end. ``number``: which one ended first.
    """

    worker: int
    number: int
    status: str
    turns: int
    kind: str
    error: str | None
    exit_status: int
    asked: bool
    last_on_stderr: str = ""

    @property
    def well(self) -> bool:
        """Whether it ended as a program ends well."""
        return self.exit_status == 0 and self.status in ("", "finished")

    @property
    def how(self) -> str:
        """Say how it ended."""
        if self.error is not None:
            return self.error
        if self.exit_status < 0:
            try:
                name = signal.Signals(-self.exit_status).name
            except ValueError:
                name = f"signal {-self.exit_status}"
            more = "; did its machine run out of memory?" if self.exit_status == -signal.SIGKILL else ""
            return f"its process was killed by {name}{more}"
        last = f"; last on stderr: {self.last_on_stderr}" if self.last_on_stderr else ""
        return f"its process ended with exit status {self.exit_status}{last}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``alone``: it failed on some workers only, so that it may be tried again from its last checkpoint."""

    status: Status
    turns: int
    error: str | None = None
    worker: int | None = None
    alone: bool = False


def judge(ends: Mapping[int, End], *, stopping: bool) -> Verdict:
    """Return what came of a job whose processes have ended on all workers.

    What fails while the run is being stopped is a part of the stop: nobody is charged.
    """
    turns = max(end.turns for end in ends.values())
    by_status = {end.status for end in ends.values()}
    if all(end.well for end in ends.values()):
        return Verdict("finished", turns)
    if by_status == {"pruned"}:
        return Verdict("pruned", turns)
    if stopping or (by_status <= {"stopped", "finished", "pruned"} and "stopped" in by_status):
        return Verdict("stopped", turns)
    failed = [end for end in ends.values() if end.status in ("", "failed") and end.exit_status > 0]
    alike = len({(end.kind, end.turns, end.exit_status) for end in failed}) == 1
    if len(failed) == len(ends) and alike and not any(is_echo(end.error or "") for end in failed):
        first = min(failed, key=lambda end: end.worker)
        return Verdict("failed", first.turns, first.how, first.worker)
    guilty = [end for end in ends.values() if not end.well and not end.asked and end.status in ("", "failed")]
    first = min(guilty or ends.values(), key=lambda end: (is_echo(end.error or ""), end.number))
    return Verdict("failed", first.turns, first.how, first.worker, alone=True)
