"""The table at the end of a run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping

from motet.divergence import diverged_text, from_json
from motet.observe.text import fitted
from motet.results import JobResult, Results
from motet.tracebacks import short_form

_WIDEST_RESULT = 48
Logs = Callable[[str, int | None], object]  # where a job's log of a worker is


def results_table(results: Results, logs: Logs | None = None, width: int | None = None) -> str:
    """Return one line a job, one for the whole run, and why jobs failed. Seconds are those of the worker that reports.

    The table fits into ``width`` characters, if there is such.
    """
    head = ["job", "status", "turns", "result", "compute", "sync", "hidden"]
    rows = [_row(name, job) for name, job in results.jobs.items()]
    text = "\n".join(fitted([head, *rows], left={0, 1, 3}, flexible=3, spare=(5, 4, 6, 3), width=width))
    failed = [_failure(name, job, job.error, logs) for name, job in results.jobs.items() if job.error]
    diverged = [
        f"{name} diverged: {diverged_text(from_json(job.nonfinite))}"
        for name, job in results.jobs.items()
        if job.nonfinite
    ]
    return "\n".join([text, _whole(results), *failed, *diverged, ""])


def _failure(name: str, job: JobResult, error: str, logs: Logs | None) -> str:
    where = "" if logs is None else f" (all of it: {logs(name, job.failed_on)})"
    return f"{name} failed: {short_form(error)}{where}"


def _row(name: str, job: JobResult) -> list[str]:
    share = f" ({job.hidden_seconds / job.sync_seconds:.0%})" if job.sync_seconds > 0 else ""
    seconds = [f"{job.compute_seconds:.1f} s", f"{job.sync_seconds:.1f} s", f"{job.hidden_seconds:.1f} s{share}"]
    status = ", ".join([job.status, *sorted({one.kind for one in from_json(job.nonfinite).values()})])
    return [name, status, str(job.turns), _shown(job), *seconds]


def _shown(job: JobResult) -> str:
    """Return the result in few characters; for a failed job, why."""
    if job.error:
        text = short_form(job.error)
    elif isinstance(job.result, Mapping):
        if set(job.result) == {"repr", "file"}:
            text = str(job.result["file"] or job.result["repr"])
        elif {"metric", "before", "after"} <= set(job.result):  # what the report's first table shows, too
            text = f"{job.result['metric']} {_value(job.result['before'])} -> {_value(job.result['after'])}"
        else:
            text = ", ".join(f"{key} {_value(value)}" for key, value in job.result.items())
    else:
        text = "-" if job.result is None else _value(job.result)
    text = " ".join(text.split())
    return text if len(text) <= _WIDEST_RESULT else text[: _WIDEST_RESULT - 3] + "..."


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=repr)


def _whole(results: Results) -> str:
    workers = f"{results.num_workers} worker{'s' * (results.num_workers != 1)}"
    efficiency = f", efficiency {results.efficiency:.2f}" if results.efficiency is not None else ""
    return f"{workers}, {results.wall_seconds:.1f} s{efficiency}"


def terminal_width() -> int | None:
    """Return how wide a table on stdout may be; None where that is no terminal and nobody said."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else None
