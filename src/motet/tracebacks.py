"""The short form of a traceback: where in the user's own code, which error, and the first line of its message."""

from __future__ import annotations

import os
import re
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_HEADER = "Traceback (most recent call last):"
_FRAME = re.compile(r'  File "(.+?)", line (\d+)')
_CHAINED = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_GROUP = re.compile(r"\s*\+ Exception Group Traceback")  # lines of its traceback begin with "  | "
# What torch wraps around an error of a DataLoader's worker, of a thread that pins memory, of a replica.
_WRAPPED = re.compile(r"[\w.]+: Caught \w+ in (DataLoader worker process|pin memory thread|replica) .*\.")
_ORIGINAL = "Original Traceback (most recent call last):"
_QUALIFIED = re.compile(r"(?:[^\W\d]\w*\.|<locals>\.)+(?=[^\W\d]\w*(?::|$))")
_OF_JOB = re.compile(r"job '[^']*':? ")
LONGEST = 300  # of a message, in a short form
_LIBRARIES = {"site-packages", "dist-packages"}
_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_AROUND = tuple(_OURS + part for part in ("coroutines.py", "jobs", "intercept", "processes"))  # a job's own code
_STANDARD = tuple({os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib")})


@dataclass(frozen=True)
class _Block:
    """One exception of a chain: its frames as (file, line), and its type with the message, line by line."""

    frames: Sequence[tuple[str, int]]
    message: Sequence[str]


def short_form(error: str) -> str:
    """Return ``file:line: Type: first line of the message`` for a traceback's text; the first line of another text.

    The frame is the innermost one in code that is neither installed, nor Python's, nor Motet's, or the innermost of
    all where there is none. Of a chain of exceptions the last one counts: it is what the job ended by.
    """
    blocks = list(_blocks(error.splitlines()))
    if not blocks:
        return next((line.strip() for line in error.splitlines() if line.strip()), "")
    block = _original(blocks[-1])
    frames, message = block.frames, [line.strip() for line in block.message]
    kind = message[0] if message else ""
    kind = kind[match.end() :] if (match := _QUALIFIED.match(kind)) else kind
    kind, colon, text = kind.partition(":")
    text = next((line for line in (text.strip(), *message[1:]) if line), "") if colon else ""
    text = text[match.end() :] if (match := _OF_JOB.match(text)) else text
    text = text if len(text) <= LONGEST else text[:LONGEST] + "…"
    own = [frame for frame in frames if _is_users(frame[0])] or list(frames)
    place = f"{_shown(own[-1][0])}:{own[-1][1]}" if own else ""
    return ": ".join(filter(None, (place, kind, text)))


def traceback_text(error: BaseException, last_on_stderr: str = "") -> str:
    """Return an error's traceback from the first line on that is not Motet's own: that helps nobody.

    For one who ended itself with a number, ``last_on_stderr`` is the reason: argparse and others print it before.
    """
    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_filename.startswith(_AROUND) and entry.tb_next is not None:
        entry = entry.tb_next
    if not isinstance(error, SystemExit):
        return "".join(traceback.format_exception(type(error), error, entry))
    how = str(error.code)
    if isinstance(error.code, int):
        how = f"exit status {int(error.code)}" + (f"; last on stderr: {last_on_stderr}" if last_on_stderr else "")
    return "".join([f"{_HEADER}\n", *traceback.format_tb(entry), f"SystemExit: {how}\n"])


def _original(block: _Block) -> _Block:
    """Return what a library has wrapped: the error in the user's own code, where that is known."""
    message = block.message
    if len(message) < 2 or not _WRAPPED.fullmatch(message[0]) or message[1] != _ORIGINAL:
        return block
    return list(_blocks([_HEADER, *message[2:]]))[-1]


def _blocks(lines: Sequence[str]) -> Iterator[_Block]:
    """Yield the exceptions of a chain. A message may have any lines, also some that look like a traceback."""
    place = _next_header(lines, 0)
    while place is not None:
        strip = bool(_GROUP.match(lines[place]))
        inner = [re.sub(r"^\s*\| ?", "", line) if strip else line for line in lines[place + 1 :]]
        end = next((index for index, line in enumerate(inner) if line and not line.startswith(" ")), len(inner))
        frames = [(match[1], int(match[2])) for line in inner[:end] if (match := _FRAME.match(line))]
        following = next((i for i, line in enumerate(inner[end:], end) if line.strip() in _CHAINED), None)
        yield _Block(frames, inner[end:following])
        place = None if following is None else _next_header(lines, place + 1 + following)


def _next_header(lines: Sequence[str], begin: int) -> int | None:
    return next((i for i in range(begin, len(lines)) if lines[i] == _HEADER or _GROUP.match(lines[i])), None)


def _is_users(file: str) -> bool:
    if file.startswith("<") or _LIBRARIES & set(file.split(os.sep)):
        return False
    path = os.path.abspath(file)
    return not path.startswith((*_STANDARD, _OURS))


def _shown(file: str) -> str:
    """Return a file relative to the working directory where it lies below it, else its name."""
    try:
        below = os.path.relpath(file)
    except (OSError, ValueError):  # the working directory has gone
        below = os.pardir
    return file if file.startswith("<") else os.path.basename(file) if below.startswith(os.pardir) else below
