"""What a training loop can ask and say while it runs: ``motet.current_job()``.

A loop need not use it at all. One that does still runs alone under plain torchrun: there `current_job` gives a
handle on which every call is accepted and nothing happens.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


class JobHandle:
    """One job, as its own loop sees it."""

    def __init__(
        self,
        name: str,
        job_dir: Path | None = None,
        on_log: Callable[[dict[str, float]], None] = lambda values: None,
        on_expect: Callable[[int], None] = lambda turns: None,
    ) -> None:
        self.name = name
        self._job_dir = job_dir
        self._on_log = on_log
        self._on_expect = on_expect

    @property
    def job_dir(self) -> Path:
        """The folder for this job's own files: ``RUN_DIR/jobs/NAME``, or the current folder without a run directory."""
        return self._job_dir if self._job_dir is not None else Path.cwd()

    def log(self, **values: float) -> None:
        """Log numbers (floats, ints, or tensors of one element) for progress, ``metrics.jsonl`` and the report.

        Raises TypeError for anything else. A tensor on an accelerator is brought to the host, which waits for it.
        """
        plain: dict[str, float] = {}
        for key, value in values.items():
            try:
                plain[key] = float(value)
            except (TypeError, ValueError, RuntimeError) as error:
                raise TypeError(f"job.log({key}=...) takes a number; it was given {value!r:.80}") from error
        self._on_log(plain)

    def expect(self, turns: int) -> None:
        """Say how many turns (synchronized steps) this job will take in all, for the order and the time left."""
        if not isinstance(turns, int) or turns < 1:
            raise ValueError(f"job.expect(turns=...) takes a number of turns, at least 1; it was given {turns!r}")
        self._on_expect(turns)


_SOLO = JobHandle("solo")
_current: JobHandle | None = None


def current_job() -> JobHandle:
    """Return the job that is running now; a handle that does nothing where no run is under way."""
    return _SOLO if _current is None else _current


def set_current(handle: JobHandle | None) -> None:
    """Note whose turn it is. For the runtime."""
    global _current
    _current = handle
