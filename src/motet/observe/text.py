"""Numbers as people read them: seconds, bytes, shares, logged values."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

MIN_FLEXIBLE = 16  # characters of a table's column that is cut first


def seconds_text(seconds: float) -> str:
    """Return a duration with about three digits: ``0.8 ms``, ``4.25 s``, ``1 min 42 s``, ``3 h 05 min``."""
    if seconds < 0:
        return "-" + seconds_text(-seconds)
    if seconds < 0.9995e-3 and seconds > 0:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.0995:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 9.995:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"


def clock_text(seconds: float) -> str:
    """Return a duration as a clock shows it: ``0:42``, ``12:07``, ``3:05:00``."""
    whole = max(0, round(seconds))
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def bytes_text(num_bytes: float) -> str:
    """Return a size in powers of 1000: ``12.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"


def share_text(share: float) -> str:
    """Return a share of one in per cent."""
    return f"{100 * share:.0f} %"


def value_text(value: float) -> str:
    """Return a logged value with four digits."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return f"{value:.2e}"


def count_text(count: int, noun: str) -> str:
    """Return ``1 job``, ``3 jobs``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def listing_text(names: list[str], most: int = 4) -> str:
    """Return names as a sentence lists them, at most ``most`` of them."""
    if len(names) > most:
        return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def shortened(names: Collection[str], most: int) -> dict[str, str]:
    """Return names of at most ``most`` characters that differ where the given ones do.

    A sweep's names begin alike and differ at their ends: what goes is the middle, and the begin if need be.
    """
    found = {name: name if len(name) <= most else _without_middle(name, most) for name in names}
    if len(set(found.values())) < len(found):
        found = {name: name if len(name) <= most else "…" + name[len(name) - most + 1 :] for name in names}
    return found


def _without_middle(name: str, most: int) -> str:
    head = 0 if most < 18 else (most - 1) // 3
    return f"{name[:head]}…{name[len(name) - (most - 1 - head) :]}"


def cut(text: str, most: int) -> str:
    """Return ``text`` in at most ``most`` characters."""
    return text if len(text) <= most else text[: max(0, most - 1)] + "…"


def fitted(
    rows: Sequence[Sequence[str]], *, left: Collection[int], flexible: int, spare: Sequence[int], width: int | None
) -> list[str]:
    """Return the lines of a table whose first row is its head and whose first column holds names.

    Columns in ``left`` begin flush. A table that is wider than ``width`` has its names shortened, its column
    ``flexible`` cut, and then the columns ``spare`` left out, the first one first.
    """
    columns = list(range(len(rows[0])))
    cells = [list(row) for row in rows]

    def widths() -> dict[int, int]:
        return {column: max(len(row[column]) for row in cells) for column in columns}

    def excess() -> int:
        return 0 if width is None else sum(widths().values()) + 2 * (len(columns) - 1) - width

    if excess() > 0 and width is not None:
        names = shortened([row[0] for row in cells[1:]], max(12, width // 3))
        for row in cells[1:]:
            row[0] = names[row[0]]
    for place in (None, *spare):
        if place is not None and excess() > 0 and place in columns:
            columns.remove(place)
        if (over := excess()) > 0 and flexible in columns:
            most = max(len(cells[0][flexible]), MIN_FLEXIBLE, widths()[flexible] - over)
            for row in cells:
                row[flexible] = cut(row[flexible], most)
    found = widths()
    return [
        "  ".join(row[c].ljust(found[c]) if c in left else row[c].rjust(found[c]) for c in columns).rstrip()
        for row in cells
    ]
