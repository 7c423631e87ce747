"""What a job printed last: all that is known of how well it did, where it neither logs nor returns anything."""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 120
_TAIL_BYTES = 1 << 14
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_BAR = re.compile(r"\d+%\s*(\||[━╸╺])|\bit/s\b|\bs/it\b|[━█]{3}")


def last_line(path: Path) -> str | None:
    """Return the last line of a job's log that says something and is no progress bar; None if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    for raw in reversed(text.splitlines()):  # also at \r: a bar's states are lines of their own
        line = " ".join(_CONTROL.sub("", raw).split())
        if line and not _BAR.search(line):
            return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
    return None
