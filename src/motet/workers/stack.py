"""Where a thread stands, in few words: the innermost line, and the innermost ones of a user's own code."""

from __future__ import annotations

import os
import sysconfig
from types import FrameType

_NUM_OWN = 2
_LIBRARIES = tuple({os.path.join(os.path.realpath(sysconfig.get_path(name)), "") for name in ("stdlib", "platstdlib")})
_MOTET = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def position_text(frame: FrameType | None) -> str:
    """Return ``file:line in function`` of the innermost frame, and of the two innermost that are nobody's library."""
    lines: list[str] = []
    num_own, innermost = 0, True
    while frame is not None and num_own < _NUM_OWN:
        own = _is_own(frame.f_code.co_filename)
        if own or innermost:
            lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        num_own += own
        frame, innermost = frame.f_back, False
    return ", called from ".join(lines)


def _is_own(file: str) -> bool:
    parts = file.split(os.sep)
    libraries = "site-packages" in parts or "dist-packages" in parts or file.startswith((_MOTET, "<frozen"))
    return not libraries and not os.path.realpath(file).startswith(_LIBRARIES)
