"""What each worker did when: written as the run goes, within a budget, whatever the run's length.

Each worker writes two files below ``RUN_DIR/trace``. ``worker-R.jsonl`` holds a header and then one line a turn;
``worker-R.sums.json`` holds exact sums and how busy the worker was over time (`account`). A later attempt (a resumed
or restarted run) writes files of its own, ``worker-R.2.jsonl`` and so on.

The budget: the first half of it keeps every turn. The rest keeps blocks of `BLOCK_TURNS` turns in a row, one block in
every 2, then 4, 8, …: whenever the rest is full, every other block in it is dropped. Which turns are kept depends on
their number alone, so workers keep the same ones.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, Any

from motet.events import (
    Event,
    JobEnded,
    JobStarted,
    Notice,
    OrderChanged,
    RunEnded,
    RunStarted,
    SyncEnded,
    TurnEnded,
)
from motet.observe.account import Account
from motet.run_dir import make_folder, opener

FORMAT_VERSION = 1
BLOCK_TURNS = 64
ALL_PARTS_BYTES = 32_000_000  # merged, they grow about fourfold, and the whole must stay below 200 MB
MARKS_BYTES = 0.1  # of a part's budget: notices, changes of the order
BUFFER_RECORDS = 512
SUMS_EVERY_SECONDS = 10.0


def part_path(run_dir: Path, worker: int, attempt: int) -> Path:
    """Return where a worker's turns of an attempt (1, 2, …) are written."""
    number = "" if attempt == 1 else f".{attempt}"
    return run_dir / "trace" / f"worker-{worker}{number}.jsonl"


def sums_path(part: Path) -> Path:
    """Return where the sums that belong to ``part`` are written."""
    return part.with_suffix(".sums.json")


class TraceRecorder:
    """Record when this worker computed, and when gradients were in flight. Every worker needs one of its own.

    Costs about half a microsecond a record, and a few more each when `BUFFER_RECORDS` of them are written together.
    ``budget_bytes`` is for all workers of the run; `RunStarted` says how many they are. OSError is the caller's.
    """

    changes_nothing_global = True

    def __init__(self, run_dir: Path, *, budget_bytes: int = ALL_PARTS_BYTES) -> None:
        self._run_dir = run_dir
        self._all_budget_bytes = budget_bytes
        self._account = Account()
        self._buffer: list[Event] = []
        self._part: _PartFile | None = None
        self._sums_due = 0.0

    def observe(self, event: Event) -> None:
        """Take note of ``event``; write when enough have come together."""
        buffer = self._buffer
        buffer.append(event)
        kind = event.__class__
        if kind is TurnEnded or kind is SyncEnded:
            if len(buffer) >= BUFFER_RECORDS or event.time >= self._sums_due:
                self._write(event.time)
        elif isinstance(event, RunStarted):
            self._begin(event)
        elif isinstance(event, RunEnded):
            self._flush()
            self._write_sums(ended=True)
            self.close()

    def close(self) -> None:
        """Close the part's file. Harmless when it is closed already."""
        if self._part is not None:
            self._part.close()
            self._part = None

    def _begin(self, event: RunStarted) -> None:
        self.close()
        attempt = 1
        used = 0
        while (path := part_path(self._run_dir, event.worker, attempt)).exists():
            used += path.stat().st_size
            attempt += 1
        make_folder(path.parent)
        budget = self._all_budget_bytes // max(1, event.num_workers)
        budget = max(0, budget - used) * 3 // 4  # leave some for attempts to come
        self._part = _PartFile(path, event, budget)
        self._account = Account()
        self._buffer = [event]
        self._sums_due = event.time + 1.0  # the first sums come early, so that a short run has some if it is killed

    def _write(self, now: float) -> None:
        self._flush()
        if now >= self._sums_due:
            self._write_sums()
            self._sums_due = now + SUMS_EVERY_SECONDS

    def _flush(self) -> None:
        if self._part is None:
            self._buffer.clear()
            return
        events, self._buffer = self._buffer, []
        account, part = self._account, self._part
        for event in events:
            account.observe(event)
            part.add(event)
        part.flush()

    def _write_sums(self, ended: bool = False) -> None:
        if self._part is None:
            return
        data = {**self._account.to_json(), "thinned": self._part.thinned(), "ended": ended}
        path = sums_path(self._part.path)
        partial = path.with_suffix(".partial")
        with open(partial, "w", encoding="utf-8", opener=opener) as file:
            file.write(json.dumps(data))
        os.replace(partial, path)


class _PartFile:
    """One worker's file of turns: what `TraceRecorder` knows about the budget."""

    def __init__(self, path: Path, event: RunStarted, budget_bytes: int) -> None:
        self.path = path
        self._start = event.time
        self._jobs = {name: index for index, name in enumerate(event.jobs)}
        self._half_bytes = budget_bytes // 2
        self._marks_left = int(budget_bytes * MARKS_BYTES)
        self._num_turns = 0
        self._pending: dict[str, tuple[int, TurnEnded]] = {}  # turns whose gradients are in flight
        self._lines: list[str] = []
        self._stride = 1
        self._first_turn_thinned: int | None = None
        self._rest_begin = 0  # where in the file the thinned rest begins
        self._size = 0
        self._file: IO[bytes] = open(path, "w+b", buffering=0, opener=opener)  # noqa: SIM115 - closed by `close`
        header = {
            "format_version": FORMAT_VERSION,
            "worker": event.worker,
            "num_workers": event.num_workers,
            "unix_time": event.unix_time,
            "jobs": list(event.jobs),
            "order": list(event.order[:1000]),
        }
        self._lines.append(json.dumps(header))

    def close(self) -> None:
        self._file.close()

    def thinned(self) -> dict[str, int] | None:
        """Say from which turn on only one block in ``stride`` is kept; None while all are."""
        if self._first_turn_thinned is None:
            return None
        return {"from_turn": self._first_turn_thinned, "stride": self._stride, "block_turns": BLOCK_TURNS}

    def add(self, event: Event) -> None:
        if isinstance(event, TurnEnded):
            self._num_turns += 1
            if event.synchronizing:
                self._pending[event.job] = (self._num_turns, event)
            else:
                self._add_turn(self._num_turns, event, None)
        elif isinstance(event, SyncEnded):
            pending = self._pending.pop(event.job, None)
            if pending is not None:
                self._add_turn(*pending, event)
        elif not isinstance(event, RunStarted):
            self._add_mark(event)

    def _keeps(self, number: int) -> bool:
        if self._stride == 1:
            return True
        return number // BLOCK_TURNS % self._stride == 0

    def _add_turn(self, number: int, turn: TurnEnded, sync: SyncEnded | None) -> None:
        if not self._keeps(number):
            return
        start = self._start
        job = self._jobs.get(turn.job)
        if job is None:
            job = self._add_job(turn.job)
        # Whole microseconds since the run began: number, job, turn, begin, end [, launched, completed, wait begin,
        # wait end, hidden, bytes, collectives].
        line = f"[{number},{job},{turn.turn},{(turn.begin - start) * 1e6:.0f},{(turn.time - start) * 1e6:.0f}"
        if sync is not None:
            line += (
                f",{(sync.launched - start) * 1e6:.0f},{(sync.completed - start) * 1e6:.0f}"
                f",{(sync.wait_begin - start) * 1e6:.0f},{(sync.time - start) * 1e6:.0f}"
                f",{sync.hidden_seconds * 1e6:.0f},{sync.num_bytes},{sync.num_collectives}"
            )
        self._lines.append(line + "]")

    def _add_job(self, name: str) -> int:
        index = self._jobs[name] = len(self._jobs)
        self._lines.append(json.dumps({"job": name, "index": index}))
        return index

    def _add_mark(self, event: Event) -> None:
        time = round((event.time - self._start) * 1e6)
        mark: dict[str, Any]
        if isinstance(event, JobStarted):
            mark = {"mark": "job started", "time": time, "job": event.job, "turns": event.turns}
        elif isinstance(event, JobEnded):
            mark = {"mark": "job ended", "time": time, "job": event.job, "status": event.status}
        elif isinstance(event, OrderChanged):
            mark = {"mark": "order", "time": time, "text": event.reason[:500]}
        elif isinstance(event, Notice):
            mark = {"mark": "notice", "time": time, "job": event.job, "text": event.text[:500]}
        elif isinstance(event, RunEnded):
            self._drain()
            mark = {"mark": "run ended", "time": time}
        else:
            return
        line = json.dumps(mark)
        self._marks_left -= len(line)
        if self._marks_left > 0 or isinstance(event, RunEnded):
            self._lines.append(line)

    def _drain(self) -> None:
        """Write the turns whose gradients nobody waited for."""
        for number, turn in self._pending.values():
            self._add_turn(number, turn, None)
        self._pending.clear()

    def flush(self) -> None:
        """Write the lines that have come together, and thin what is too much."""
        if not self._lines:
            return
        data = ("\n".join(self._lines) + "\n").encode()
        self._lines.clear()
        self._write(data)
        if self._stride == 1:
            if self._size >= self._half_bytes:
                self._rest_begin = self._size
                self._first_turn_thinned = self._num_turns + 1
                self._stride = 2
        else:
            while self._size - self._rest_begin > self._half_bytes and self._stride < 1 << 62:
                self._stride *= 2
                self._drop_blocks()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = self._file.write(view) or 0
            self._size += written
            view = view[written:]

    def _drop_blocks(self) -> None:
        """Drop the blocks of the rest that the new stride leaves out; marks stay."""
        self._file.seek(self._rest_begin)
        kept = []
        for line in self._file.read().splitlines(keepends=True):
            if line.startswith(b"[") and not self._keeps(int(line[1 : line.index(b",")])):
                continue
            kept.append(line)
        self._file.seek(self._rest_begin)
        self._file.truncate()
        self._size = self._rest_begin
        self._write(b"".join(kept))
