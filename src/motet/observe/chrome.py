"""Merge the workers' parts into ``trace.json``, in Chrome's trace event format (opens in Perfetto).

A worker is a process. Its first thread shows what it computed, and when it waited for gradients; each job's lane is a
thread below, which shows when that job's gradients were in flight. An arrow leads from the end of a backward pass to
the arrival of its gradients. Counters show the shares of time in which the worker computed and the network was busy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from motet.observe.parts import Trace, TracePart, Turn, block_sample, busy_over_time, read_trace
from motet.run_dir import opener

MOST_TURNS = 230_000  # of all workers; 470 bytes each, 650 with the longest names
LONGEST_NAME = 40
MOST_MARKS = 20_000


def write_trace(run_dir: Path) -> Path:
    """Write ``RUN_DIR/trace.json`` from the parts, and return its path. Atomic."""
    path = run_dir / "trace.json"
    partial = run_dir / "trace.json.partial"
    with open(partial, "w", encoding="utf-8", opener=opener) as file:
        for piece in trace_pieces(read_trace(run_dir)):
            file.write(piece)
    os.replace(partial, path)
    return path


def trace_pieces(trace: Trace) -> Iterator[str]:
    """Yield the text of ``trace.json``: events by ascending time, one a line."""
    events: list[tuple[float, str]] = []
    most = MOST_TURNS // max(1, len(trace.workers))
    lessened = False
    for worker in trace.workers:
        parts = trace.of_worker(worker)
        lanes = {name: index + 1 for index, name in enumerate(dict.fromkeys(n for part in parts for n in part.jobs))}
        events.extend(_names(worker, lanes, trace.thinned()))
        for part in parts:
            turns = block_sample(part.turns, most // len(parts))
            lessened |= len(turns) < len(part.turns)
            for turn in turns:
                events.extend(_turn_events(worker, lanes[turn.job], turn))
            events.extend(_mark_events(worker, part))
        events.extend(_counters(worker, parts))
    events.sort(key=lambda event: event[0])
    notes = [note for note in (trace.thinned(), "lessened: not every recorded turn is shown" * lessened) if note]
    other = json.dumps({"made by": "motet", "complete": not notes, "left out": "; ".join(notes)})
    yield '{"displayTimeUnit":"ms","otherData":' + other + ',"traceEvents":[\n'
    for index, (_, text) in enumerate(events):
        yield text if index == 0 else ",\n" + text
    yield "\n]}\n"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _event(time: float, **fields: Any) -> tuple[float, str]:
    stamp = round(max(0.0, time) * 1e6, 1)
    return stamp, json.dumps({**fields, "ts": stamp}, separators=(",", ":"))


def _names(worker: int, lanes: dict[str, int], thinned: str | None) -> Iterator[tuple[float, str]]:
    def named(what: str, tid: int, args: dict[str, Any]) -> tuple[float, str]:
        return -1.0, json.dumps({"ph": "M", "name": what, "pid": worker, "tid": tid, "ts": 0, "args": args})

    yield named("process_name", 0, {"name": f"worker {worker}"})
    yield named("process_sort_index", 0, {"sort_index": worker})
    if thinned:
        yield named("process_labels", 0, {"labels": thinned})
    yield named("thread_name", 0, {"name": "compute"})
    yield named("thread_sort_index", 0, {"sort_index": 0})
    for job, lane in lanes.items():
        yield named("thread_name", lane, {"name": f"lane of {job}"})
        yield named("thread_sort_index", lane, {"sort_index": lane})


def _turn_events(worker: int, lane: int, turn: Turn) -> Iterator[tuple[float, str]]:
    name = _short(turn.job)
    yield _event(
        turn.begin,
        ph="X",
        name=name,
        cat="compute",
        pid=worker,
        tid=0,
        dur=_duration(turn.begin, turn.end),
        args={"turn": turn.turn},
    )
    if turn.launched is None or turn.completed is None or turn.wait_end is None or turn.wait_begin is None:
        return
    args = {
        "turn": turn.turn,
        "hidden ms": round(1e3 * (turn.hidden_seconds or 0.0), 3),
        "MB": round((turn.num_bytes or 0) / 1e6, 3),
    }
    yield _event(
        turn.launched,
        ph="X",
        name=name,
        cat="sync",
        pid=worker,
        tid=lane,
        dur=_duration(turn.launched, turn.completed),
        args=args,
    )
    if turn.wait_end - turn.wait_begin >= 20e-6:
        yield _event(
            turn.wait_begin,
            ph="X",
            name="waits for " + name,
            cat="wait",
            pid=worker,
            tid=0,
            dur=_duration(turn.wait_begin, turn.wait_end),
        )
    # An arrow binds to the slices that enclose its two ends, so both lie just inside them. Backward may end after
    # the gradients have arrived; then there is nothing to point at.
    leaves, arrives = max(turn.begin, turn.end - 1e-6), max(turn.launched, turn.completed - 1e-6)
    if arrives >= leaves:
        arrow = {"name": "gradients", "cat": "sync", "id": f"{worker}.{turn.number}", "pid": worker}
        yield _event(leaves, ph="s", tid=0, **arrow)
        yield _event(arrives, ph="f", bp="e", tid=lane, **arrow)


def _duration(begin: float, end: float) -> float:
    return round(max(0.0, end - begin) * 1e6, 1)


def _mark_events(worker: int, part: TracePart) -> Iterator[tuple[float, str]]:
    running: dict[str, dict[str, Any]] = {}
    for mark in part.marks[:MOST_MARKS]:
        if mark.kind == "job started" and mark.job is not None and mark.job not in running:
            span = {"name": _short(mark.job), "cat": "job", "id": f"{part.offset}.{mark.job}", "pid": worker, "tid": 0}
            running[mark.job] = span
            yield _event(mark.time, ph="b", **span)
        elif mark.kind == "job ended" and mark.job in running:
            yield _event(mark.time, ph="e", **running.pop(mark.job), args={"status": mark.text})
        elif mark.kind in ("notice", "order"):
            yield _event(
                mark.time, ph="i", s="p", name=mark.kind, pid=worker, tid=0, args={"text": mark.text, "job": mark.job}
            )
    for span in running.values():
        yield _event(part.end, ph="e", **span, args={"status": "unknown"})


def _counters(worker: int, parts: list[TracePart]) -> Iterator[tuple[float, str]]:
    for begin, _, compute, network in busy_over_time(parts):
        for name, share in (("computing %", compute), ("network busy %", network)):
            yield _event(begin, ph="C", name=name, pid=worker, tid=0, args={"share": round(100 * share, 1)})
