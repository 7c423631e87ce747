"""Read what the workers' `trace` parts hold, laid side by side on one axis of time.

The axis is in seconds since the run first began. Attempts (a run that was stopped and resumed) follow each other
without the time between them. Workers are laid by their wall clocks; where these contradict causality (gradients
cannot have been summed on one worker before they left another), a worker is moved until they do not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from motet.observe.account import NUM_INTERVALS, Intervals, JobSums
from motet.observe.trace import sums_path

_PART_NAME = re.compile(r"worker-(\d+)(?:\.(\d+))?\.jsonl")


class Turn(NamedTuple):
    """One turn on one worker; seconds on the run's axis. The fields from ``launched`` on are None without a sync."""

    number: int
    job: str
    turn: int
    begin: float
    end: float
    launched: float | None = None
    completed: float | None = None
    wait_begin: float | None = None
    wait_end: float | None = None
    hidden_seconds: float | None = None
    num_bytes: int | None = None


class Mark(NamedTuple):
    """Something that happened at one moment: a job started or ended, a notice, a change of the order."""

    kind: str
    time: float
    job: str | None
    text: str
    turns: int | None = None


@dataclass
class TracePart:
    """One attempt of one worker. ``offset`` leads from its own clock to the run's axis."""

    path: Path
    worker: int
    num_workers: int
    unix_time: float
    jobs: list[str]
    order: list[str]
    sums: dict[str, Any]
    offset: float = 0.0
    turns: list[Turn] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From the first record to the last one."""
        ends = [float(self.sums.get("seconds", 0.0))]
        if self.turns:
            last = self.turns[-1]
            ends.append((last.wait_end or last.end) - self.offset)
        if self.marks:
            ends.append(self.marks[-1].time - self.offset)
        return max(ends)

    @property
    def end(self) -> float:
        """The last record, on the run's axis."""
        return self.offset + self.seconds


@dataclass(frozen=True)
class Trace:
    """All parts of a run. ``attempts`` are the (unix time, axis time) at which attempts began."""

    parts: tuple[TracePart, ...]
    attempts: tuple[tuple[float, float], ...]

    @property
    def workers(self) -> list[int]:
        """The workers that wrote parts."""
        return sorted({part.worker for part in self.parts})

    @property
    def seconds(self) -> float:
        """The length of the axis."""
        return max((part.end for part in self.parts), default=0.0)

    def of_worker(self, worker: int) -> list[TracePart]:
        """Return a worker's parts, the first attempt first."""
        return [part for part in self.parts if part.worker == worker]

    def axis_time(self, unix_time: float) -> float:
        """Lay a wall clock's time on the run's axis."""
        begun = [attempt for attempt in self.attempts if attempt[0] <= unix_time] or list(self.attempts[:1])
        if not begun:
            return unix_time
        unix_begin, axis_begin = begun[-1]
        return max(0.0, unix_time - unix_begin) + axis_begin

    def thinned(self) -> str | None:
        """Say what was left out of the recording, if anything was."""
        found = [part.sums["thinned"] for part in self.parts if part.sums.get("thinned")]
        if not found:
            return None
        first = min(thinned["from_turn"] for thinned in found)
        stride = max(thinned["stride"] for thinned in found)
        if stride > 1 << 40:
            return f"thinned: from the {first}th turn of a worker on, no single turns were recorded; all sums are exact"
        block = found[0]["block_turns"]
        return (
            f"thinned: from the {first}th turn of a worker on, {block} turns in a row of every {block * stride} were "
            "recorded; all sums are exact"
        )


def read_trace(run_dir: Path, *, with_turns: bool = True) -> Trace:
    """Read all parts of a run. Without turns it takes milliseconds. Damaged lines are left out."""
    found = []
    for path in (run_dir / "trace").glob("worker-*.jsonl"):
        match = _PART_NAME.fullmatch(path.name)
        if match and (part := _read_part(path, with_turns)):
            found.append((part.unix_time, part.worker, part))
    attempts: list[dict[int, TracePart]] = []
    for _, worker, part in sorted(found, key=lambda item: item[:2]):
        if not attempts or worker in attempts[-1]:
            attempts.append({})
        attempts[-1][worker] = part
    axis_begin = 0.0
    begins = []
    for workers in attempts:
        parts = [workers[worker] for worker in sorted(workers)]
        unix_begin = min(part.unix_time for part in parts)
        _lay_side_by_side(parts, unix_begin)
        for part in parts:
            _shift(part, axis_begin + part.unix_time - unix_begin)
        begins.append((unix_begin, axis_begin))
        axis_begin = max(part.end for part in parts)
    return Trace(tuple(part for workers in attempts for part in workers.values()), tuple(begins))


def _read_part(path: Path, with_turns: bool) -> TracePart | None:
    with path.open(encoding="utf-8", errors="replace") as file:
        try:
            header = json.loads(file.readline())
            part = TracePart(
                path,
                header["worker"],
                header["num_workers"],
                header["unix_time"],
                list(header["jobs"]),
                list(header["order"]),
                _read_sums(path),
            )
        except (ValueError, KeyError, TypeError):
            return None
        for line in file:
            if line[0] == "[" and not with_turns:
                continue
            try:
                _add_line(part, json.loads(line))
            except (ValueError, KeyError, TypeError, IndexError):
                continue
    part.turns.sort(key=lambda turn: turn.begin)
    part.marks.sort(key=lambda mark: mark.time)
    return part


def _read_sums(part: Path) -> dict[str, Any]:
    try:
        sums = json.loads(sums_path(part).read_text())
    except (OSError, ValueError):
        return {}
    return sums if isinstance(sums, dict) else {}


def _add_line(part: TracePart, record: Any) -> None:
    if isinstance(record, list):
        number, job, turn, *times = record
        spans = [time / 1e6 for time in times[:7]]
        num_bytes = int(times[7]) if len(times) > 7 else None
        part.turns.append(Turn(int(number), part.jobs[job], int(turn), *spans, *([num_bytes] if num_bytes else [])))
    elif "mark" in record:
        text = str(record.get("text") or record.get("status") or "")
        part.marks.append(Mark(record["mark"], record["time"] / 1e6, record.get("job"), text, record.get("turns")))
    else:
        assert record["index"] == len(part.jobs)
        part.jobs.append(record["job"])


def _lay_side_by_side(parts: Sequence[TracePart], unix_begin: float) -> None:
    """Correct wall clocks that contradict causality, relative to the first part."""
    reference, *others = parts
    synced_turns = {(turn.job, turn.turn): turn for turn in reference.turns if turn.completed is not None}
    for part in others:
        least, most = float("-inf"), float("inf")
        for turn in part.turns:
            known = synced_turns.get((turn.job, turn.turn))
            if known is None or turn.launched is None or turn.completed is None:
                continue
            assert known.launched is not None
            assert known.completed is not None
            least = max(least, known.launched - turn.completed)
            most = min(most, known.completed - turn.launched)
        ahead = part.unix_time - reference.unix_time
        if least <= most and not least <= ahead <= most:
            part.unix_time = reference.unix_time + min(max(ahead, least), most)
        part.unix_time = max(part.unix_time, unix_begin)


def _shift(part: TracePart, offset: float) -> None:
    part.offset = offset
    if offset:
        part.turns = [
            turn._replace(
                **{
                    name: value + offset
                    for name in ("begin", "end", "launched", "completed", "wait_begin", "wait_end")
                    if (value := getattr(turn, name)) is not None
                }
            )
            for turn in part.turns
        ]
        part.marks = [mark._replace(time=mark.time + offset) for mark in part.marks]


def sums_of(part: TracePart) -> dict[str, JobSums]:
    """Return a part's sums by job; counted from its turns where no sums were written."""
    fields = set(JobSums.__dataclass_fields__)
    by_job = part.sums.get("jobs")
    if isinstance(by_job, Mapping):
        return {name: JobSums(**{k: v for k, v in sums.items() if k in fields}) for name, sums in by_job.items()}
    counted = {name: JobSums() for name in part.jobs}
    for turn in part.turns:
        sums = counted[turn.job]
        sums.count_turn(turn.begin - part.offset, turn.end - part.offset, turn.end - turn.begin)
        if turn.completed is not None and turn.launched is not None:
            sums.count_sync(
                turn.launched,
                turn.completed,
                turn_end=turn.end,
                ready=turn.launched,  # at the latest: rows do not hold for how long it queued
                hidden_seconds=turn.hidden_seconds or 0.0,
                waiting_seconds=(turn.wait_end or 0.0) - (turn.wait_begin or 0.0),
                num_bytes=turn.num_bytes or 0,
                end=(turn.wait_end or turn.end) - part.offset,
            )
    return counted


def busy_over_time(parts: Sequence[TracePart]) -> Iterator[tuple[float, float, float, float]]:
    """Yield (begin, length, share computing, share with gradients in flight) over a worker's parts."""
    for part in parts:
        data = part.sums.get("intervals")
        if not isinstance(data, Mapping):
            continue
        intervals = Intervals(**data)
        length = intervals.length_seconds
        for index in range(NUM_INTERVALS):
            seconds = min(length, part.seconds - index * length)
            if seconds <= 0:
                break
            compute, network = intervals.compute[index] / seconds, intervals.network[index] / seconds
            yield part.offset + index * length, seconds, min(1.0, compute), min(1.0, network)


def block_sample(turns: Sequence[Turn], most: int, block_turns: int = 64) -> list[Turn]:
    """Return at most about ``most`` turns: the first quarter whole, then evenly spaced blocks of turns in a row."""
    if len(turns) <= most:
        return list(turns)
    first = turns[: most // 4]
    rest = turns[most // 4 :]
    stride = -(-len(rest) // max(1, most - len(first)))
    last_first = first[-1].number if first else 0
    return [*first, *(t for t in rest if t.number > last_first and t.number // block_turns % stride == 0)]
