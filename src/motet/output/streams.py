"""What jobs print: each line with its job's name to the terminal, and everything raw to the job's log.

A `JobStream` stands for ``sys.stdout`` or ``sys.stderr`` while a job has its turn. Several share one `Terminal`, which
knows whose line is open: a progress bar (a line that ``\\r`` rewrites) stays in place as long as its job goes on
writing, and is ended before anyone else's line. What is printed without an end of line waits for it.
"""

from __future__ import annotations

import atexit
import codecs
import contextlib
import io
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from motet.run_dir import opener

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LONGEST_LINE = 1 << 16
LONGEST_TAIL = 1 << 10
_CURSOR_UP = "\x1b[A"

# One lock for all: writes are short. Reentrant, since a signal handler may print in the middle of a write.
_lock = threading.RLock()
_all_lines: weakref.WeakSet[_Lines] = weakref.WeakSet()


def _show_on_stderr(text: str) -> None:
    stream = sys.__stderr__
    try:
        if stream is not None:
            stream.write(f"motet: {text}\n")
            stream.flush()
    except (OSError, ValueError):
        pass  # nobody is left to tell


class Terminal:
    """Where jobs' lines appear, whole: shared by all streams of one process.

    ``update_seconds``: a bar is shown at most this often where it cannot be rewritten in place (the stream is no
    terminal, or another job's line is open). An echo stream that fails is reported once to ``report`` and left out.
    """

    def __init__(
        self,
        *,
        update_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        report: Callable[[str], None] = _show_on_stderr,
    ) -> None:
        self._update_seconds = update_seconds
        self._clock = clock
        self._report = report
        self._open: tuple[object, TextIO, int] | None = None  # owner, stream, width of what stands there
        self._updated: weakref.WeakKeyDictionary[object, float] = weakref.WeakKeyDictionary()
        self._failed: list[TextIO] = []

    def write_line(self, echo: TextIO, text: str, owner: object = None) -> None:
        """Write a whole line, over ``owner``'s bar if that is open, after anyone else's."""
        with _lock:
            self._write(echo, self._begin(owner, echo, text) + "\n")
            self._open = None

    def update(self, echo: TextIO, text: str, owner: object) -> None:
        """Show the present state of a line that is not finished; may leave it out."""
        with _lock:
            now = self._clock()
            mine = self._open is not None and self._open[0] is owner
            if not mine and now - self._updated.get(owner, -self._update_seconds) < self._update_seconds:
                return
            if not mine:
                self._updated[owner] = now
            if not _is_terminal(echo):
                self.write_line(echo, text, owner)
                return
            self._write(echo, self._begin(owner, echo, text))
            self._open = (owner, echo, len(text))

    def end_line(self, owner: object = None) -> None:
        """End the line that stands open, if there is one (and it is ``owner``'s, if given)."""
        with _lock:
            if self._open is not None and (owner is None or self._open[0] is owner):
                echo, self._open = self._open[1], None
                self._write(echo, "\n")

    def _begin(self, owner: object, echo: TextIO, text: str) -> str:
        if self._open is not None and self._open[0] is owner and self._open[1] is echo:
            return "\r" + text.ljust(self._open[2])
        self.end_line()
        return text

    def _write(self, echo: TextIO, text: str) -> None:
        if any(echo is failed for failed in self._failed):
            return
        try:
            try:
                echo.write(text)
            except UnicodeEncodeError:
                encoding = echo.encoding or "ascii"
                echo.write(text.encode(encoding, "backslashreplace").decode(encoding))
            echo.flush()
        except (OSError, ValueError) as error:
            self._failed.append(echo)
            self._report(f"cannot write to {getattr(echo, 'name', echo)} any more ({error}); its lines are left out")


def _is_terminal(echo: TextIO) -> bool:
    try:
        return echo.isatty()
    except ValueError:  # closed
        return False


class JobLog:
    """A job's log file, for both of its streams. One that fails is reported once to ``report`` and left out.

    Not buffered and always appending: a forked DataLoader worker neither repeats nor overwrites anything.
    """

    def __init__(self, path: Path, *, report: Callable[[str], None] = _show_on_stderr) -> None:
        self.path = path
        self._report = report
        self._file: io.FileIO | None = None
        try:
            self._file = io.FileIO(path, "ab", opener=opener)
        except OSError as error:
            self._fail(error)

    def write(self, data: bytes) -> None:
        """Append ``data``."""
        while self._file is not None and data:
            try:
                data = data[self._file.write(data) :]
            except (OSError, ValueError) as error:
                self._fail(error)

    def fileno(self) -> int:
        """Return the file's descriptor; raises `io.UnsupportedOperation` if it is closed."""
        if self._file is None:
            raise io.UnsupportedOperation("fileno")
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; what is written later is dropped."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()
        self._report(f"the log {self.path} cannot be written ({error}); it is left out, the job goes on")


class _Lines(io.RawIOBase):
    """Takes bytes apart into lines and updates."""

    def __init__(
        self, name: str, prefix: str, terminal: Terminal | None, echo: TextIO | None, log: JobLog | None
    ) -> None:
        super().__init__()
        self.name = name
        self.mode = "w"
        self._prefix = prefix
        self._terminal = terminal
        self._echo = echo
        self._log = log
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""  # the unfinished line, after what was overwritten
        self._rewritten = False  # by \r
        self._stacked = False  # bars above one another: their ends of line are cursor movements
        self._tail = b""  # what was written last
        _all_lines.add(self)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Take any bytes; never fails, never writes short."""
        content = bytes(data)
        with _lock:
            self._tail = (self._tail + content[-LONGEST_TAIL:])[-LONGEST_TAIL:]
            if self._log is not None:
                self._log.write(content)
            if self._echo is not None and self._terminal is not None:
                self._take_text(self._decoder.decode(content), self._terminal, self._echo)
        return len(content)

    def fileno(self) -> int:
        """Return where a child process may write: the echo stream's descriptor, or the log's."""
        for target in (self._echo, self._log):
            if target is not None:
                try:
                    return target.fileno()
                except (OSError, ValueError):
                    continue
        raise io.UnsupportedOperation("fileno")

    @property
    def last_line(self) -> str:
        """The last line that was written and is not blank, as far as it is remembered."""
        lines = self._tail.decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def finish(self) -> None:
        """Write the last line if it has no end; the stream stays usable."""
        with _lock:
            rest, self._rest = self._rest + self._decoder.decode(b"", True), ""
            self._decoder.reset()
            if rest and self._terminal is not None and self._echo is not None:
                if text := _visible(rest):
                    self._terminal.write_line(self._echo, self._prefix + text, self)
                self._terminal.end_line(self)
            self._rewritten = self._stacked = False

    def close(self) -> None:
        if not self.closed:
            self.finish()
        super().close()

    def forget(self) -> None:
        """In a forked child: what the parent has begun, the parent ends."""
        self._rest = ""
        self._rewritten = False
        self._decoder.reset()

    def _take_text(self, text: str, terminal: Terminal, echo: TextIO) -> None:
        if _CURSOR_UP in text:
            text = text.replace(_CURSOR_UP, "")
            self._stacked = True
        *whole, rest = text.split("\n")
        for part in whole:
            line = self._rest + part
            rewritten = self._rewritten or "\r" in part.rstrip("\r")
            self._rest, self._rewritten = "", False
            shown = _visible(line)
            if rewritten and self._stacked:
                if shown:
                    terminal.update(echo, self._prefix + shown, self)
            elif shown or not (rewritten or self._stacked):  # a bar that removed itself leaves no empty line
                self._stacked = False
                terminal.write_line(echo, self._prefix + shown, self)
        if not rest:
            return
        self._rest += rest
        if "\r" in rest:
            self._rewritten = True
            shown = _visible(self._rest)
            # A \r at the end may be the first half of \r\n: keep it, until what follows overwrites the line.
            self._rest = shown + ("\r" if self._rest.endswith("\r") else "")
        if self._rewritten:
            if shown := _visible(self._rest):
                terminal.update(echo, self._prefix + shown, self)
        else:
            self._stacked = False
        if len(self._rest) > LONGEST_LINE:
            self.finish()


def _visible(line: str) -> str:
    """Return what a terminal would show of a line after its rewritings."""
    *_, last = line.rstrip("\r").split("\r")
    return last.rstrip() if "\r" in line else last


class JobStream(io.TextIOWrapper):
    """A job's ``sys.stdout`` or ``sys.stderr``.

    Lines go to ``echo`` with a prefix (``[name] ``) through ``terminal``, or nowhere if there is no echo; everything
    goes to ``log`` as it is. UTF-8; ``buffer`` takes bytes; not a terminal, since bars drawn with cursor movements
    could not be told apart; ``fileno()`` is that of the echo stream or the log. Any thread may write. ``instead()``
    returns at each write another stream that gets it, or None.
    """

    def __init__(
        self,
        name: str,
        *,
        terminal: Terminal | None = None,
        echo: TextIO | None = None,
        log: JobLog | None = None,
        prefix: str | None = None,
        instead: Callable[[], TextIO | None] = lambda: None,
    ) -> None:
        self._instead = instead
        terminal = Terminal() if terminal is None and echo is not None else terminal
        self._lines = _Lines(f"<{name}>", f"[{name}] " if prefix is None else prefix, terminal, echo, log)
        super().__init__(
            self._lines,  # a raw stream is enough: nothing is buffered here
            encoding="utf-8",
            errors="backslashreplace",
            newline="\n",
            write_through=True,
        )

    def write(self, text: str, /) -> int:
        """Write to this stream, or to the one that is to get it instead."""
        other = self._instead()
        return super().write(text) if other is None or other is self else other.write(text)

    @property
    def last_line(self) -> str:
        """What was last written, as a line: a job that exits with a status has said why there, as a rule."""
        return self._lines.last_line

    def flush(self) -> None:
        """Flush; fails only where the job has closed its stream and no other one gets what is written to it."""
        if not self.closed or self._instead() in (None, self):
            super().flush()

    def finish(self) -> None:
        """Write the last line if it has no end: the job has ended. Late writers (threads, handlers) still can.

        A job may have closed it, which did the same.
        """
        if not self.closed:
            self.flush()
            self._lines.finish()


def _renew_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # another thread of the parent may have held it
    for lines in _all_lines:
        lines.forget()


def _finish_all() -> None:
    for lines in list(_all_lines):
        lines.finish()


atexit.register(_finish_all)  # an interpreter that ends does not close what replaced its streams
os.register_at_fork(after_in_child=_renew_in_child)
