"""A job that is to live in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from motet.errors import UsageError
from motet.jobs import Job, JobSpec


@dataclass(frozen=True)
class ProcessJob:
    """A job as the run has it: data (``spec``), or a callable that the warm parent holds.

    ``given``: what a job of a search begins with (`motet.processes.search`).
    """

    name: str
    call: Callable[[], object] | None
    spec: Mapping[str, Any] | None
    turns: int | None = None
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    given: Mapping[str, Any] | None = None

    def described(self) -> Job | JobSpec:
        """Return what shows its arguments; nothing is imported for that."""
        if self.call is not None:
            return Job(self.name, self.call, self.turns, None, self.cwd, self.env)
        assert self.spec is not None
        return JobSpec.from_json(self.spec)


def refuse_compressed(name: str, compress: str | None) -> None:
    """Raise `UsageError` for a job whose gradients are to be sent as Motet sends them, not DDP."""
    if compress not in (None, "none"):
        raise UsageError(
            f"job {name!r}: compress: {compress} goes with --house together; in a process of its own, register torch's "
            "bf16_compress_hook in the script"
        )
