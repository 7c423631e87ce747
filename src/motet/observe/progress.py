"""Live progress on worker 0: a row a job, how busy the run is below, and whatever the jobs print above.

Nothing here runs by itself: rows are drawn from `Progress.observe`, between turns, so no thread draws while a job
holds the terminal, and a forked data loader inherits nothing that ticks. Rich lays the rows out; the few control
sequences that replace them are sent from here, because a line that a job prints must not cost a layout.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TextIO, cast

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from motet.divergence import Diverged as Since
from motet.divergence import diverged_text
from motet.events import (
    Diverged,
    Event,
    JobEnded,
    JobStarted,
    MemoryMeasured,
    MetricsLogged,
    Notice,
    OrderChanged,
    RunEnded,
    RunStarted,
    SyncEnded,
    TurnEnded,
)
from motet.observe.account import Account, estimate
from motet.observe.text import bytes_text, clock_text, count_text, share_text, shortened, value_text
from motet.tracebacks import short_form

DRAW_EVERY_SECONDS = 0.25
DRAWING_SHARE = 0.01  # of the run's time, about
DRAW_AT_LEAST_EVERY_SECONDS = 2.0
# Without a terminal: a line so often at first, then after a twentieth of the time, and at least so often. A run of
# three days leaves some 4,000 lines in a log.
PLAIN_EVERY_SECONDS, PLAIN_SHARE, PLAIN_AT_LEAST_EVERY_SECONDS = 1.5, 1 / 20, 60.0  # 2 s, with the turn that ends then
RATE_MEMORY_SECONDS = 8.0
BAR_CELLS = 16
NARROW = 100  # cells: below, there is no bar, and words are shorter
MOST_PLAIN_JOBS = 8

_STYLES = {
    "waiting to join": "dim",
    "starting up": "yellow",
    "computing": "bold green",
    "gradients in flight": "cyan",
    "ready": "dim",
    "finished": "green",
    "failed": "bold red",
    "pruned": "yellow",
    "stopped": "yellow",
}


@dataclass(slots=True)
class _Row:
    name: str
    state: str = "waiting to join"
    turns: int = 0
    expected: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    rate: float | None = None  # turns per second, lately
    seen_turns: int = 0
    seen_time: float | None = None
    ended: bool = False
    held_bytes: int = 0
    diverged: dict[str, Since] = field(default_factory=dict)  # what is not finite now

    def measure(self, now: float) -> None:
        """Let the rate follow the turns since the last look."""
        if self.seen_time is None or now <= self.seen_time or self.ended:
            self.seen_time = self.seen_time or now
            return
        passed = now - self.seen_time
        latest = (self.turns - self.seen_turns) / passed
        weight = min(1.0, passed / RATE_MEMORY_SECONDS)
        self.rate = latest if self.rate is None else self.rate + weight * (latest - self.rate)
        self.seen_turns, self.seen_time = self.turns, now

    def seconds_left(self) -> float | None:
        if self.ended or not self.rate or not self.expected:
            return None
        return max(0, self.expected - self.turns) / self.rate


class Progress:
    """Show how the run goes. Other workers than 0 show nothing.

    On a terminal the rows are redrawn at most four times a second, less often where drawing is slow. Elsewhere a
    line is printed, every two seconds at first and then less and less often. With ``quiet``, only failures and
    notices are printed. `print_line` prints above the rows; use it for everything else that goes to the same
    terminal. ``logs`` says where a job's log of a worker is. Changes of the order are shown if ``verbose``.
    """

    changes_nothing_global = True

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        quiet: bool = False,
        live: bool | None = None,
        width: int | None = None,
        logs: Callable[[str, int | None], object] | None = None,
        verbose: bool = False,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        if live is None:
            live = self._stream.isatty() and os.environ.get("TERM", "") not in ("dumb", "")
        self._live = live and not quiet
        self._quiet = quiet
        self._logs = logs
        self._verbose = verbose
        self._console = Console(file=self._stream, width=width, force_terminal=live or None, legacy_windows=False)
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._worker = 0
        self._num_workers = 1
        self._rows: dict[str, _Row] = {}
        self._account = Account()
        self._frame = ""  # what stands on the terminal now, below everything else
        self._due = 0.0
        self._began = 0.0
        self._now = 0.0
        self._over = False

    def observe(self, event: Event) -> None:
        """Take note of ``event``, and draw if it is time."""
        self._now = event.time
        self._account.observe(event)
        if isinstance(event, TurnEnded):
            row = self._row(event.job)
            row.turns = event.turn if event.synchronizing else event.turn - 1  # what follows the last one is none
            row.state = "gradients in flight" if event.synchronizing else "ready"
            if event.time < self._due + (DRAW_EVERY_SECONDS if self._live else 0.0):
                return  # rather draw when a sync has ended: then it is known which job computes
        elif isinstance(event, SyncEnded):
            self._row(event.job).state = "computing"
        elif isinstance(event, MetricsLogged):
            self._row(event.job).values.update(event.values)
            return
        else:
            self._rare(event)
        if event.time >= self._due and self._worker == 0 and not self._over:
            self._draw()

    def print_line(self, text: str) -> None:
        """Print ``text`` and a line's end above the rows, at once. Any thread may."""
        if os.getpid() != self._process:  # a forked child has no rows to draw, and may have inherited a held lock
            self._write(text + "\n")
            return
        with self._lock:
            self._write(self._erasure() + text + "\n" + self._frame)

    def as_stream(self) -> TextIO:
        """Return a stream whose lines are printed above the rows; what has no line's end yet waits for it."""
        return cast(TextIO, _Above(self))

    def close(self) -> None:
        """Leave the rows where they are; nothing is drawn any more."""
        self._over = True
        self._frame = ""

    def _row(self, name: str) -> _Row:
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = _Row(name)
        return row

    def _rare(self, event: Event) -> None:
        """Take note of what happens a few times in a run."""
        if isinstance(event, RunStarted):
            self._worker, self._num_workers = event.worker, event.num_workers
            self._began = event.time
            self._due = event.time if self._live else event.time + PLAIN_EVERY_SECONDS
            for name in event.jobs:
                self._row(name)
        elif isinstance(event, JobStarted):
            row = self._row(event.job)
            row.expected = event.turns
            if row.seen_time is None or row.ended:  # a job may learn its length later, and say it then
                row.state, row.seen_time, row.ended = "starting up", event.time, False
                if not self._live:  # its imports may take long, and nothing else is shown meanwhile
                    self._print(f"{event.job} starts up")
        elif isinstance(event, JobEnded):
            row = self._row(event.job)
            row.measure(event.time)
            row.state, row.turns, row.ended = event.status, event.turns, True
            self._say_ended(event)
        elif isinstance(event, MemoryMeasured):
            held = event.parameters_bytes + event.gradients_bytes + event.optimizer_bytes
            self._row(event.job).held_bytes = held + (event.activations_bytes or 0)
        elif isinstance(event, Notice):
            self._print(f"{event.job}: {event.text}" if event.job else event.text, always=True)
        elif isinstance(event, Diverged):
            self._row(event.job).diverged.pop(event.name, None)
            if event.since_turn is not None:
                self._row(event.job).diverged[event.name] = Since(event.value, event.since_turn)
        elif isinstance(event, OrderChanged):
            if self._verbose:
                self._print(f"order changed: {event.reason}")
        elif isinstance(event, RunEnded) and self._worker == 0:
            self._draw()
            self.close()

    def _say_ended(self, event: JobEnded) -> None:
        text = f"{event.job} {event.status} after {count_text(event.turns, 'turn')}"
        if diverged := diverged_text(self._row(event.job).diverged):
            text += f" ({diverged})"
        if held := self._row(event.job).held_bytes:
            text += f", held {bytes_text(held)}"
        if event.error:
            text += f": {short_form(event.error)}{self._rest(event)}"
        self._print(text, always=event.status == "failed")

    def _rest(self, event: JobEnded) -> str:
        """Say where all of a traceback is."""
        return f" (all of it: {self._logs(event.job, event.failed_on)})" if self._logs is not None else ""

    def _print(self, text: str, always: bool = False) -> None:
        if self._worker == 0 and (always or not self._quiet):
            self.print_line(f"motet: {text}")

    def _draw(self) -> None:
        for row in self._rows.values():
            row.measure(self._now)
        if self._quiet:
            self._due = float("inf")
            return
        if not self._live:
            self.print_line(self._plain_line())
            pause = max(PLAIN_EVERY_SECONDS, PLAIN_SHARE * (self._now - self._began))
            self._due = self._now + min(PLAIN_AT_LEAST_EVERY_SECONDS, pause)
            return
        begin = time.thread_time()
        with self._console.capture() as captured:
            self._console.print(self._rows_and_footer())
        with self._lock:
            erasure = self._erasure()
            self._frame = captured.get()
            self._write(erasure + self._frame)
        pause = (time.thread_time() - begin) / DRAWING_SHARE
        self._due = self._now + min(DRAW_AT_LEAST_EVERY_SECONDS, max(DRAW_EVERY_SECONDS, pause))

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()

    def _erasure(self) -> str:
        height = self._frame.count("\n")
        return f"\r\x1b[{height}A\x1b[J" if height else ""

    def _rows_and_footer(self) -> Group:
        width, height = self._console.size
        shown, rest = self._choose(max(3, height - 6))
        names = shortened([row.name for row in shown], max(8, width // 3))
        cells = [_cells(row, names[row.name], short=width < NARROW) for row in shown]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, expand=True)
        table.add_column("job", no_wrap=True, max_width=max(8, width // 3))
        if width >= NARROW:
            table.add_column("", no_wrap=True, min_width=BAR_CELLS)
        for place, name in enumerate(("turns", "rate", "left"), start=1):
            widest = max((len(row[place]) for row in cells), default=0)  # figures must not be cut
            table.add_column(name, justify="right", no_wrap=True, min_width=max(widest, len(name)))
        table.add_column("state", no_wrap=True)
        table.add_column("latest", no_wrap=True, overflow="ellipsis", ratio=1)
        for row, texts in zip(shown, cells, strict=True):
            table.add_row(*([texts[0], _bar(row), *texts[1:]] if width >= NARROW else texts))
        parts: list[Table | Text] = [table]
        if rest:
            parts.append(Text(f"… and {count_text(len(rest), 'job')} more: {self._counts(rest)}", style="dim"))
        parts.append(Text(self._footer(short=width < NARROW), style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    def _choose(self, most: int) -> tuple[list[_Row], list[_Row]]:
        """Return the rows that fit, those still going first, and the others."""
        rows = list(self._rows.values())
        if len(rows) <= most:
            return rows, []
        going = [row for row in rows if not row.ended and row.state != "waiting to join"]
        going += [row for row in rows if row not in going]
        chosen = going[: most - 1]
        return [row for row in rows if row in chosen], [row for row in rows if row not in chosen]

    def _counts(self, rows: list[_Row]) -> str:
        states: dict[str, int] = {}
        for row in rows:
            state = row.state if row.ended or row.state == "waiting to join" else "going on"
            states[state] = states.get(state, 0) + 1
        return ", ".join(f"{count} {state}" for state, count in states.items())

    def _footer(self, short: bool = False) -> str:
        account, seconds = self._account, self._now - self._began
        busy = "" if short else " busy"
        parts = [clock_text(seconds), count_text(self._num_workers, "worker")]
        if seconds > 0 and account.compute_seconds > 0:
            guess = estimate(account.jobs, account.network_seconds)
            training = max(seconds - account.startup_seconds, 1e-9)
            parts.append(f"efficiency {min(1.0, guess.bound_seconds / training):.2f}")
            in_flight = sum(sums.sync_seconds for sums in account.jobs.values())
            if in_flight > 0:
                hidden = sum(sums.hidden_seconds for sums in account.jobs.values())
                parts.append(f"sync hidden {share_text(min(1.0, hidden / in_flight))}")
            parts.append(f"compute{busy} {share_text(min(1.0, account.compute_seconds / training))}")
            parts.append(f"network{busy} {share_text(min(1.0, account.network_seconds / training))}")
        return " · ".join(parts)

    def _plain_line(self) -> str:
        rows = list(self._rows.values())
        if len(rows) > MOST_PLAIN_JOBS:
            done = sum(row.turns for row in rows)
            jobs = f"{self._counts(rows)}, {count_text(done, 'turn')}"
        else:
            jobs = ", ".join(_plain_row(row) for row in rows)
        return f"motet: {jobs} | {self._footer()}"


class _Above(io.TextIOBase):
    """A text stream that prints above the rows. It is no terminal: nothing written earlier can be rewritten."""

    encoding = "utf-8"

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._open = ""

    def write(self, text: str) -> int:
        *lines, self._open = (self._open + text).split("\n")
        for line in lines:
            self._progress.print_line(line)
        return len(text)

    def writable(self) -> bool:
        return True


def _plain_row(row: _Row) -> str:
    text = f"{row.name} {row.turns}/{row.expected}" if row.expected else f"{row.name} {row.turns}"
    if row.ended or row.state == "waiting to join":
        return f"{text} {row.state}" + (f" ({diverged_text(row.diverged)})" if row.diverged else "")
    inner = [f"{_rate_text(row.rate)}"] if row.rate else []
    inner += [f"{name} {value_text(value)}" for name, value in list(row.values.items())[:2]]
    return f"{text} ({', '.join(inner)})" if inner else text


def _cells(row: _Row, name: str, short: bool) -> list[Text]:
    """Return a row's job, turns, rate, time left, state and latest values."""
    left = row.seconds_left()
    return [
        Text(name, style="bold" if row.state == "computing" else ""),
        Text(f"{row.turns}/{row.expected}" if row.expected else str(row.turns)),
        Text("" if row.rate is None or row.ended else _rate_text(row.rate)),
        Text("" if left is None else clock_text(left)),
        _state(row, short),
        Text("  ".join(f"{name} {value_text(value)}" for name, value in row.values.items())),
    ]


def _state(row: _Row, short: bool) -> Text:
    """Return what a job does; what is not finite any more stands there until it has ended, and after."""
    state = row.state.removeprefix("gradients ") if short else row.state
    if not row.diverged:
        return Text(state, style=_STYLES.get(row.state, ""))
    since = next(iter(row.diverged.values()))
    diverged = since.kind if short else str(since)
    return Text(f"{state}, {diverged}" if row.ended else diverged, style="bold red")


def _rate_text(rate: float) -> str:
    """Return turns per second, or seconds per turn where that is more."""
    if rate >= 0.95 or rate <= 0:
        return f"{rate:.1f}/s" if rate < 99.5 else f"{rate:.0f}/s"
    return f"{1 / rate:.1f} s each"


def _bar(row: _Row) -> Text:
    if not row.expected:
        return Text("")
    filled = round(2 * BAR_CELLS * min(1.0, row.turns / row.expected))
    text = "━" * (filled // 2) + "╸" * (filled % 2)
    style = "red" if row.state == "failed" else "green"
    return Text.assemble((text, style), ("━" * (BAR_CELLS - len(text)), "bright_black"))
