"""How a job ends on one worker, and what is raised inside a job to end it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


class JobStopped(BaseException):
    """Raised inside a job to end it in good order; derives from BaseException so that loops do not swallow it.

    ``JobStopped("pruned")`` prunes the job, ``JobStopped("failed", text)`` ends it as failed.
    """

    def outcome(self) -> JobOutcome:
        """Return how the job has ended by this."""
        if self.args[:1] == ("failed",):
            return JobOutcome("failed", kind="JobStopped", error=str(self.args[1]))
        return JobOutcome("pruned" if self.args == ("pruned",) else "stopped")


@dataclass(frozen=True)
class JobOutcome:
    """How a job ended on this worker. ``kind`` names the exception's type, ``error`` is its traceback's text."""

    status: Literal["finished", "failed", "pruned", "stopped"]
    result: Any = None
    kind: str = ""
    error: str | None = None
