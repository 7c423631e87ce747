"""Build ``report.html``: one file that needs nothing else, made from what a run left in its directory."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from motet.observe.digest import RunDigest, digest
from motet.observe.parts import Turn, block_sample, busy_over_time
from motet.observe.ranking import Mode
from motet.observe.report_page import page
from motet.run_dir import opener

MOST_TURNS = 40_000  # drawn in the timeline, of all workers together
MOST_WORKERS = 8
MOST_CURVES = 24
MOST_POINTS = 400
MOST_MARKS = 500


def build_report(run_dir: Path, metric: str | None = None, mode: Mode | None = None) -> Path:
    """Write ``RUN_DIR/report.html`` and return its path. Atomic; UsageError if there is no run.

    ``metric``, ``mode``: see `motet.observe.digest.digest`.
    """
    run = digest(run_dir, with_turns=True, metric=metric, mode=mode)
    path = run_dir / "report.html"
    partial = run_dir / "report.html.partial"
    with open(partial, "w", encoding="utf-8", errors="replace", opener=opener) as file:
        file.write(page(run, embedded_json(page_data(run))))
    os.replace(partial, path)
    return path


def embedded_json(data: Any) -> str:
    """Return JSON that can stand inside a script element: no text in it can end the element or begin another."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))  # ASCII only
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def page_data(run: RunDigest) -> dict[str, Any]:
    """Return what the page's scripts draw: the timeline and the curves."""
    jobs = {job.name: index for index, job in enumerate(run.jobs)}
    workers = run.trace.workers[:MOST_WORKERS]
    return {
        "jobs": list(jobs),
        "seconds": round(run.trace.seconds, 6),
        "workers": [_worker_data(run, worker, jobs, MOST_TURNS // len(workers)) for worker in workers],
        "marks": _marks(run),
        "curves": _curves(run, jobs),
        "logarithmic": any(job.diverged for job in run.jobs),
    }


def _worker_data(run: RunDigest, worker: int, jobs: dict[str, int], most: int) -> dict[str, Any]:
    parts = run.trace.of_worker(worker)
    turns = [turn for part in parts for turn in block_sample(part.turns, most // len(parts))]
    return {
        "worker": worker,
        "turns": [_turn_row(turn, jobs) for turn in turns],
        "busy": [[round(value, 4) for value in interval] for interval in busy_over_time(parts)],
    }


def _turn_row(turn: Turn, jobs: dict[str, int]) -> list[int]:
    """Return whole microseconds: job, turn, begin, duration [, launched, seconds in flight, wait begin, waited, kB]."""
    begin = round(turn.begin * 1e6)
    row = [jobs[turn.job], turn.turn, begin, round((turn.end - turn.begin) * 1e6)]
    if turn.launched is None or turn.completed is None or turn.wait_begin is None or turn.wait_end is None:
        return row
    return [
        *row,
        round(turn.launched * 1e6),
        round((turn.completed - turn.launched) * 1e6),
        round(turn.wait_begin * 1e6),
        round((turn.wait_end - turn.wait_begin) * 1e6),
        round((turn.num_bytes or 0) / 1e3),
    ]


def _marks(run: RunDigest) -> list[dict[str, Any]]:
    """Return what all workers alike went through, as worker 0 saw it, and where attempts began."""
    marks = [
        {"time": round(axis_time, 6), "kind": "resumed", "text": "stopped and resumed"}
        for _, axis_time in run.trace.attempts[1:]
    ]
    for part in run.trace.of_worker(run.trace.workers[0]) if run.trace.workers else ():
        for mark in part.marks:
            if mark.kind == "run ended":
                continue
            text = " ".join(filter(None, (mark.job, mark.kind if mark.job else None, mark.text)))
            marks.append({"time": round(mark.time, 6), "kind": mark.kind, "text": text})
    return marks[:MOST_MARKS]


def _curves(run: RunDigest, jobs: dict[str, int]) -> list[dict[str, Any]]:
    """Return the logged curves, the most informative first: per job [turn, seconds, mean] points."""
    places: dict[str, int] = {}
    for job in run.jobs:
        for place, logged in enumerate(job.logged):
            places[logged.name] = min(place, places.get(logged.name, place))
    most = max(60, min(MOST_POINTS, 6000 // max(1, len(jobs))))
    curves = []
    for name in sorted(run.curves, key=lambda name: places.get(name, len(places)))[:MOST_CURVES]:
        series = []
        for job_name, curve in run.curves[name].items():
            if job_name not in jobs:
                continue
            points = [
                [turn, round(run.trace.axis_time(time), 3), _short(mean)] for turn, time, mean in curve.thinned(most)
            ]
            series.append({"job": jobs[job_name], "points": points})
        curves.append({"name": name, "series": series})
    return curves


def _short(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.5g}")
