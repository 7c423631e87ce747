"""The options that ``motet run`` and ``motet resume`` share: when a run, or a job of it, ends early."""

from __future__ import annotations

import argparse
import math
import re
import time
from typing import Any

from motet.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_ON_SAME_FILE = ("warn", "stop-job", "error")
_ON_NAN = ("ignore", "stop-job", "raise")


def add_safety_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a parser."""
    parser.add_argument("--stop-after", metavar="TIME", help="stop the run after, say, 90m or 2h: resumable, status 3")
    parser.add_argument(
        "--timeout", metavar="SECONDS", help="end the run when nothing has moved for so long (default: 1800)"
    )
    parser.add_argument(
        "--on-nan", choices=_ON_NAN, default=None, help="when synchronized gradients hold NaN or inf (default: ignore)"
    )
    parser.add_argument(
        "--on-same-file", choices=_ON_SAME_FILE, default=None, help="when two jobs write one file (default: warn)"
    )
    parser.add_argument(
        "--max-job-failures",
        metavar="N",
        help="so many more tries for a job that failed on one worker alone (default: 1)",
    )


def safety_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what of these options was given, checked, as it stands in ``run.json``."""
    told: dict[str, Any] = {}
    if options.stop_after is not None:
        # A moment, not a duration: workers that are started again do not begin anew.
        told["stop_at_unix_time"] = time.time() + parse_duration(options.stop_after, "--stop-after")
    if options.timeout is not None:
        told["timeout_seconds"] = parse_duration(options.timeout, "--timeout")
    if options.on_nan is not None:
        told["on_nan"] = options.on_nan
    if options.on_same_file is not None:
        told["on_same_file"] = options.on_same_file
    if options.max_job_failures is not None:
        if not re.fullmatch(r"[0-9]{1,6}", options.max_job_failures):
            raise UsageError(f"--max-job-failures takes a number, at least 0, not {options.max_job_failures!r}")
        told["max_job_failures"] = int(options.max_job_failures)
    return told


def parse_duration(text: str, option: str) -> float:
    """Return seconds: of ``90`` (seconds), ``90s``, ``30m``, ``2h``, ``1d``, ``1h30m``; `UsageError` for other text."""
    words = re.findall(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text)
    if not words or "".join(number + unit for number, unit in words) != text or (len(words) > 1 and not words[-1][1]):
        raise UsageError(f"{option} takes a time such as 90s, 30m, 2h or 1h30m, not {text!r}")
    seconds = sum(float(number) * _UNITS[unit or "s"] for number, unit in words)
    if not 0 < seconds < math.inf:
        raise UsageError(f"{option} takes a time above 0, not {text!r}")
    return seconds
