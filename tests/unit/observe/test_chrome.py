from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.unit.observe import synthetic
from tests.unit.observe.synthetic import THREE, endless, sixteen

from motet.observe import TraceRecorder, chrome, write_trace


def events_of(run_dir: Path) -> list[dict[str, Any]]:
    data = json.loads(write_trace(run_dir).read_text(), parse_constant=pytest.fail)
    events = data["traceEvents"]
    assert isinstance(events, list)
    return events


@pytest.mark.parametrize("plans", [THREE, sixteen()], ids=["three", "sixteen"])
def test_trace_is_valid(tmp_path: Path, plans: dict[str, synthetic.Plan]) -> None:
    events = events_of(synthetic.record(tmp_path, plans))
    times = [event["ts"] for event in events]
    assert times == sorted(times)
    assert all({"ph", "pid", "tid", "ts"} <= set(event) for event in events)
    open_spans: dict[Any, int] = defaultdict(int)
    arrows: dict[str, dict[str, float]] = defaultdict(dict)
    for event in events:
        if event["ph"] in "be":
            open_spans[event["pid"], event["id"]] += 1 if event["ph"] == "b" else -1
            assert open_spans[event["pid"], event["id"]] in (0, 1)
        elif event["ph"] in "sf":
            assert event["ph"] not in arrows[event["id"]]
            arrows[event["id"]][event["ph"]] = event["ts"]
    assert len(open_spans) == 2 * len(plans)
    assert not any(open_spans.values()), "every begin has an end"
    assert len(arrows) > 100
    assert all(arrow["s"] <= arrow["f"] for arrow in arrows.values())


def test_slices_of_a_thread_do_not_overlap_and_hold_the_arrows(tmp_path: Path) -> None:
    events = events_of(synthetic.record(tmp_path, THREE))
    slices: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            assert event["dur"] >= 0
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(slices) == 2 * (1 + len(THREE))
    for spans in slices.values():
        assert all(early[1] <= late[0] + 1.1 for early, late in pairwise(spans))
    for event in events:
        if event["ph"] in "sf":
            assert any(begin <= event["ts"] <= end for begin, end in slices[event["pid"], event["tid"]])


def test_threads_are_named(tmp_path: Path) -> None:
    events = events_of(synthetic.record(tmp_path, THREE))
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert named == {
        (worker, tid): name
        for worker in (0, 1)
        for tid, name in enumerate(["compute", "lane of gpt", "lane of recommender", "lane of conv"])
    }


def test_a_long_run_stays_bounded_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = TraceRecorder(tmp_path, budget_bytes=200_000)
    name = "a job with a rather long name " * 4
    for event in endless(40_000, (name, "b")):
        recorder.observe(event)
    monkeypatch.setattr(chrome, "MOST_TURNS", 1500)
    path = write_trace(tmp_path)
    assert path.stat().st_size < 600 * 1500
    data = json.loads(path.read_text())
    assert data["otherData"]["complete"] is False
    assert "thinned: from the" in data["otherData"]["left out"]
    assert "lessened" in data["otherData"]["left out"]
    labels = [event for event in data["traceEvents"] if event["name"] == "process_labels"]
    assert labels, "the trace itself says that it was thinned"


def test_a_turn_takes_fewer_bytes_than_the_limit_counts_on(tmp_path: Path) -> None:
    """200 MB hold 32 MB of parts, MOST_TURNS merged turns of the longest names, and the report."""
    recorder = TraceRecorder(tmp_path)
    for event in endless(3000, ("x" * 200, "y" * 200)):
        recorder.observe(event)
    recorder.close()
    size = write_trace(tmp_path).stat().st_size / 3000
    assert size * chrome.MOST_TURNS < 155_000_000


def test_an_empty_run_directory_gives_an_empty_trace(tmp_path: Path) -> None:
    assert events_of(tmp_path) == []
