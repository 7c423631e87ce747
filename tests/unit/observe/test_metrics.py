from __future__ import annotations

import contextlib
import json
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from motet.events import MetricsLogged, RunEnded, RunStarted
from motet.observe import MetricsWriter
from motet.observe.metrics import Curve, read_metrics


def started(worker: int = 0) -> RunStarted:
    return RunStarted(50.0, 1050.0, worker, 2, ("a",), ("a",))


def test_a_line_a_log_call_there_at_once(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.observe(started())
    writer.observe(MetricsLogged(51.5, "a", 3, {"loss": 0.25, "acc": float("nan"), "top": -math.inf}))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail) for line in lines] == [
        {"time": 1051.5, "job": "a", "turn": 3, "values": {"loss": 0.25, "acc": "NaN", "top": "-Infinity"}}
    ]
    writer.observe(RunEnded(52.0, 2.0))
    curves = read_metrics(tmp_path / "metrics.jsonl")
    assert curves["loss"]["a"] == Curve([3], [1051.5], [0.25])
    assert math.isnan(curves["acc"]["a"].values[0])
    assert curves["top"]["a"].values == [-math.inf]


def test_other_workers_write_nothing(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.observe(started(worker=1))
    writer.observe(MetricsLogged(51.0, "a", 1, {"loss": 1.0}))
    assert list(tmp_path.iterdir()) == []


def test_a_half_line_of_a_killed_run_spoils_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"time": 1, "job": "a", "turn": 1, "values": {"loss": 9}}\n{"time": 2, "jo')
    writer = MetricsWriter(tmp_path)
    writer.observe(started())
    writer.observe(MetricsLogged(51.0, "a", 2, {"loss": 8.0}))
    writer.close()
    assert read_metrics(path)["loss"]["a"].values == [9.0, 8.0]


def test_turns_logged_again_after_a_resume_replace_the_earlier_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [("a", 1, 5.0), ("b", 4, 7.0), ("a", 2, 4.0), ("a", 3, 3.0), ("a", 2, 4.5), ("a", 2, 4.6), ("a", 3, 3.5)]
    path.write_text(
        "".join(
            json.dumps({"time": i, "job": job, "turn": turn, "values": {"loss": value}}) + "\n"
            for i, (job, turn, value) in enumerate(lines)
        )
    )
    curves = read_metrics(path)
    assert (curves["loss"]["a"].turns, curves["loss"]["a"].values) == ([1, 2, 2, 3], [5.0, 4.5, 4.6, 3.5])
    assert curves["loss"]["b"].values == [7.0]


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 100 bytes: not for longer than the block, or pytest's own output meets the limit."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_the_callers_to_report(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path)
    writer.observe(started())
    writer.observe(MetricsLogged(51.0, "a", 1, {"loss": 1.0}))
    with full_disk(), pytest.raises(OSError, match="File too large"):
        writer.observe(MetricsLogged(51.0, "a", 2, {"loss": 1.0}))
    writer.close()  # nothing is left to be written, so this cannot fail again
    assert os.path.getsize(tmp_path / "metrics.jsonl") == 100


def test_ends_are_means_of_finite_values() -> None:
    curve = Curve(list(range(100)), [0.0] * 100, [math.nan, *[10.0] * 5, *[5.0] * 89, *[1.0] * 5])
    assert curve.ends() == (10.0, 2.0 - 1.0)
    assert all(math.isnan(value) for value in Curve([1], [0.0], [math.inf]).ends())


def test_thinned_curves_keep_their_means_and_gaps() -> None:
    curve = Curve(
        list(range(1, 9)), [float(i) for i in range(8)], [1.0, 3.0, math.nan, math.nan, 5.0, math.inf, 2.0, 2.0]
    )
    assert curve.thinned(4) == [(2, 1.0, 2.0), (4, 3.0, None), (6, 5.0, 5.0), (8, 7.0, 2.0)]
