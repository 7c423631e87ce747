"""Stops: whoever is asked, all workers end at a save point of each job, resumable, within seconds."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.distributed.command import FAULTY, Place

from motet.cli.safety import parse_duration
from motet.errors import GangError, UsageError
from motet.launcher.agent import STOP_SECONDS
from motet.testing import Gang
from motet.workers.interruption import GRACE_SECONDS, PATIENCE_SECONDS, Interruption
from motet.workers.watch import EXIT_STATUS

JOBS = "tests.distributed.jobs_saving:"
TWO = "--nproc-per-node=2"
LONG = {"steps": 150, "pause": 0.01, "every": 1000}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def test_ctrl_c_saves_every_job_and_resume_goes_on(place: Place, gangs: Callable[[int], Gang]) -> None:
    jobs = place.jobs(a=LONG | {"tell": "ready"}, b=LONG | {"seed": 2}, unsaved={"every": None, "steps": 10**6})
    process = place.start("run", TWO, jobs, "--run-dir=out")
    place.wait_until("ready", process)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    status, out, err = place.ended(process)
    assert time.monotonic() - begin < 30
    assert status == 3, (out, err)
    assert "motet resume out" in err
    assert "Traceback" not in out + err
    turns = place.jobs_of(field="turns")
    assert set(place.jobs_of().values()) == {"stopped"}
    for name in ("a", "b"):
        assert place.checkpoints(name) == [f"turn-{turns[name]:08d}"], "each is saved where it stopped"
    status, out, err = place.motet("resume", "out", "--only", "a", "--only", "b")
    assert status == 3, "the third job still waits"
    assert f"[a] begins after {turns['a']}" in out
    results = place.jobs_of(field="result")
    for name, seed in {"a": 1, "b": 2}.items():
        assert results[name] == gangs(2).run(FAULTY, **{**LONG, "seed": seed, "pause": 0.0})[0], "as alone, plain DDP"
    assert place.jobs_of() == {"a": "finished", "b": "finished", "unsaved": "stopped"}


def test_a_second_signal_ends_at_once(place: Place) -> None:
    process = place.start("run", TWO, place.jobs(a={"steps": 10**6, "at": 3, "what": "sleep"}), "--run-dir=out")
    place.wait_until("sleeps", process)
    process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    status, out, err = place.ended(process)
    assert time.monotonic() - begin < 15, "without the second one it is 25 seconds"
    assert status == 3, (out, err)
    assert place.jobs_of() == {"a": "stopped"}


def test_a_time_limit_stops_all_workers(gangs: Callable[[int], Gang], tmp_path: Path) -> None:
    for told in gangs(2).run(f"{JOBS}limited", str(tmp_path), 0.3):
        status, turns, _ = told["jobs"]["saves"]
        assert status == "stopped"
        assert 0 < turns < 10**6
        assert (tmp_path / "checkpoints" / "saves" / f"turn-{turns:08d}").is_dir()


def test_a_loop_that_reaches_no_save_point_is_stopped_all_the_same(
    new_gang: Callable[[int], Gang], tmp_path: Path
) -> None:
    for told in new_gang(2).run(f"{JOBS}never_at_a_save_point", str(tmp_path), 0.5):
        assert {name: job[0] for name, job in told["jobs"].items()} == {"deaf": "stopped", "saves": "stopped"}
    assert (tmp_path / "checkpoints" / "saves").is_dir()
    assert not (tmp_path / "checkpoints" / "deaf").exists()


def test_jobs_that_have_not_begun_are_stopped_too(new_gang: Callable[[int], Gang], tmp_path: Path) -> None:
    for told in new_gang(2).run(f"{JOBS}many_waiting", str(tmp_path)):
        assert {job[0] for job in told["jobs"].values()} == {"stopped"}
        assert len(told["jobs"]) == 13


def test_there_is_time_for_everything() -> None:
    assert PATIENCE_SECONDS + 5 < GRACE_SECONDS, "to write what was saved after the last save point"
    assert GRACE_SECONDS < STOP_SECONDS <= 25, "the launcher waits longer, and the run has 30 seconds"


def test_a_worker_that_is_blocked_in_a_collective_hears_a_signal(new_gang: Callable[[int], Gang]) -> None:
    gang = new_gang(2)
    gang.start()
    process = psutil.Process(gang.pids[0])
    with ThreadPoolExecutor() as pool:
        attempt = pool.submit(gang.attempt, "tests.distributed.jobs_failures:asked_while_blocked", 0, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        finally:
            os.kill(gang.pids[1], signal.SIGKILL)
        assert attempt.result()[0].status == EXIT_STATUS
    assert "could not agree within" in gang.output(0)


def test_workers_that_do_not_come_along_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    interruption = Interruption(stop_after_seconds=60.0)
    assert (interruption.requested, interruption.wish, interruption.hopeless()) == (False, 0, None)
    now += 60
    assert (interruption.requested, interruption.wish, interruption.hopeless()) == (True, 1, None)
    now += PATIENCE_SECONDS + 1
    assert interruption.wish == 2
    now += GRACE_SECONDS
    assert isinstance(interruption.hopeless(), GangError)
    interruption.settled()
    assert interruption.hopeless() is None


def test_a_signal_is_heard_once() -> None:
    interruption = Interruption()
    with interruption.listening():
        signal.raise_signal(signal.SIGINT)
        assert interruption.signal_name == "SIGINT"
        time.sleep(0.6)
        assert interruption.hear() is None, "the main thread has seen it: it is no second one"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("1h30m", 5400.0), ("1d", 86400.0)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_duration(text, "--stop-after") == seconds


@pytest.mark.parametrize("text", ["", "h", "2 h", "-1", "0", "0s", "1h30", "soon", "1e3", "2w", "nan", "inf"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--stop-after"):
        parse_duration(text, "--stop-after")
