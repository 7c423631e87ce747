from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.unit.observe.synthetic import THREE, endless, streams

from motet.events import Event, JobStarted, RunStarted, SyncEnded, TurnEnded
from motet.observe import TraceRecorder
from motet.observe.parts import block_sample, busy_over_time, read_trace, sums_of
from motet.observe.trace import BLOCK_TURNS, part_path


def record(run_dir: Path, events: list[Event], budget_bytes: int = 10_000_000) -> None:
    recorder = TraceRecorder(run_dir, budget_bytes=budget_bytes)
    for event in events:
        recorder.observe(event)
    recorder.close()


def test_turns_come_back_as_they_were_observed(tmp_path: Path) -> None:
    events = streams(THREE)[0]
    record(tmp_path, events)
    trace = read_trace(tmp_path)
    (part,) = trace.parts
    start = events[0].time
    turns = {(event.job, event.turn): event for event in events if isinstance(event, TurnEnded)}
    syncs = {(event.job, event.turn): event for event in events if isinstance(event, SyncEnded)}
    assert len(part.turns) == len(turns) == 1200
    assert [turn.number for turn in part.turns] == list(range(1, 1201))
    for turn in part.turns:
        event, sync = turns[turn.job, turn.turn], syncs[turn.job, turn.turn]
        expected = (event.begin, event.time, sync.launched, sync.completed, sync.wait_begin, sync.time)
        assert turn[3:9] == pytest.approx([time - start for time in expected], abs=1e-6)
        assert (turn.hidden_seconds, turn.num_bytes) == (pytest.approx(sync.hidden_seconds, abs=1e-6), sync.num_bytes)
    started = [mark for mark in part.marks if mark.kind == "job started"]
    assert [(mark.job, mark.turns) for mark in started] == [(name, 400) for name in THREE]
    assert trace.thinned() is None
    assert part.seconds == pytest.approx(events[-1].time - start)


def test_sums_agree_with_the_turns(tmp_path: Path) -> None:
    record(tmp_path, streams(THREE)[1])
    (part,) = read_trace(tmp_path).parts
    written = sums_of(part)
    part.sums = {}
    counted = sums_of(part)
    for name in THREE:
        for field in ("turns", "num_syncs", "num_bytes"):
            assert getattr(written[name], field) == getattr(counted[name], field)
        for field in ("compute_seconds", "sync_seconds", "hidden_seconds", "overlap_seconds", "waiting_seconds"):
            assert getattr(written[name], field) == pytest.approx(getattr(counted[name], field), rel=1e-3)


@pytest.mark.parametrize(("num_turns", "budget_bytes"), [(500_000, 400_000), (50_000, 40_000)])
def test_a_million_events_stay_within_the_budget(tmp_path: Path, num_turns: int, budget_bytes: int) -> None:
    recorder = TraceRecorder(tmp_path, budget_bytes=budget_bytes)
    for event in endless(num_turns):
        recorder.observe(event)
    used = sum(path.stat().st_size for path in (tmp_path / "trace").iterdir())
    assert used < budget_bytes + 16_000  # the sums
    trace = read_trace(tmp_path)
    (part,) = trace.parts
    thinned = part.sums["thinned"]
    numbers = [turn.number for turn in part.turns]
    assert numbers[: thinned["from_turn"] - 1] == list(range(1, thinned["from_turn"]))
    late = [number for number in numbers if number > num_turns / 2]
    assert len(late) >= BLOCK_TURNS, "the second half of the run must be seen as well"
    assert all(number // BLOCK_TURNS % thinned["stride"] == 0 for number in numbers[thinned["from_turn"] :])
    assert len(part.turns) * 40 > budget_bytes / 4, "the budget is there to be used"
    assert "thinned" in (trace.thinned() or "")
    sums = sums_of(part)
    assert sum(job.turns for job in sums.values()) == num_turns
    assert sum(job.compute_seconds for job in sums.values()) == pytest.approx(num_turns * 0.008)
    busy = list(busy_over_time([part]))
    assert busy[-1][0] + busy[-1][1] == pytest.approx(num_turns * 0.010)
    assert [round(interval[2], 2) for interval in busy] == [0.8] * len(busy)


def test_workers_share_the_budget(tmp_path: Path) -> None:
    first, *rest = endless(20_000)
    assert isinstance(first, RunStarted)
    sizes = []
    for num_workers in (1, 4):
        run_dir = tmp_path / str(num_workers)
        record(run_dir, [replace(first, num_workers=num_workers), *rest], 400_000)
        sizes.append(part_path(run_dir, 0, 1).stat().st_size)
    assert sizes[1] < sizes[0] / 3


def test_a_killed_run_keeps_what_was_written(tmp_path: Path) -> None:
    events = streams(THREE)[0]
    recorder = TraceRecorder(tmp_path)
    for event in events[:3000]:
        recorder.observe(event)
    path = part_path(tmp_path, 0, 1)
    with path.open("a") as file:
        file.write("[77777,1,")
    (part,) = read_trace(tmp_path).parts
    assert len(part.turns) > 800
    assert sum(job.turns for job in sums_of(part).values()) > 0
    recorder.close()


def test_attempts_follow_each_other_and_share_the_budget(tmp_path: Path) -> None:
    first = streams(THREE)
    second = streams(THREE, start=77.0, unix=1_790_003_600.0, seed=2)  # an hour later
    for attempt in (first, second):
        for events in attempt:
            record(tmp_path, events, 80_000)
    trace = read_trace(tmp_path)
    assert sorted(path.name for path in (tmp_path / "trace").glob("*.jsonl")) == [
        "worker-0.2.jsonl",
        "worker-0.jsonl",
        "worker-1.2.jsonl",
        "worker-1.jsonl",
    ]
    seconds = [events[-1].time - events[0].time for events in (first[0], second[0])]
    assert trace.seconds == pytest.approx(sum(seconds), abs=1e-3)
    early, late = trace.of_worker(0)
    assert late.turns[0].begin > early.turns[-1].end
    assert late.offset == pytest.approx(seconds[0], abs=1e-3)
    assert trace.axis_time(1_790_003_600.0 + 2) == pytest.approx(late.offset + 2)
    assert trace.axis_time(1_790_000_000.0 + 2) == pytest.approx(2)
    assert sum(path.stat().st_size for path in (tmp_path / "trace").glob("*.jsonl")) < 90_000


def test_a_wall_clock_that_contradicts_causality_is_corrected(tmp_path: Path) -> None:
    here, there = streams(THREE)
    started = there[0]
    assert isinstance(started, RunStarted)
    record(tmp_path, here)
    record(tmp_path, [replace(started, unix_time=started.unix_time + 90.0), *there[1:]])  # its clock goes wrong
    one, other = read_trace(tmp_path).parts
    landed = {(turn.job, turn.turn): turn for turn in one.turns}
    for turn in other.turns:
        known = landed[turn.job, turn.turn]
        assert turn.launched is not None
        assert known.completed is not None
        assert turn.launched <= known.completed + 1e-5


def test_jobs_that_were_not_announced_are_recorded(tmp_path: Path) -> None:
    events: list[Event] = [
        RunStarted(0.0, 0.0, 0, 1, ("a",), ("a",)),
        JobStarted(0.0, "late", 3),
        TurnEnded(2.0, "late", 1, 1.0, False),
    ]
    record(tmp_path, [*events, *list(endless(0))[-1:]])
    (part,) = read_trace(tmp_path).parts
    assert [(turn.job, turn.begin, turn.end, turn.launched) for turn in part.turns] == [("late", 1.0, 2.0, None)]


def test_recording_goes_on_when_the_budget_is_gone(tmp_path: Path) -> None:
    for _ in range(4):
        record(tmp_path, list(endless(3000)), 40_000)
    assert (
        sum(path.stat().st_size for path in (tmp_path / "trace").glob("*.jsonl")) < 40_000 + 4 * 25_000
    )  # a buffer each
    last = json.loads((tmp_path / "trace" / "worker-0.4.sums.json").read_text())
    assert last["jobs"]["a"]["turns"] == 1500


def test_block_samples_keep_neighbours(tmp_path: Path) -> None:
    record(tmp_path, list(endless(10_000)))
    (part,) = read_trace(tmp_path).parts
    sample = block_sample(part.turns, 2000)
    numbers = [turn.number for turn in sample]
    assert numbers[:500] == list(range(1, 501))
    assert 1000 < len(sample) < 2200
    assert numbers == sorted(set(numbers))
    assert sum(b - a == 1 for a, b in pairwise(numbers)) > 0.95 * len(numbers)
    assert block_sample(part.turns, 10_000) == part.turns
