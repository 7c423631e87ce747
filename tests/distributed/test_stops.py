"""Stops: whoever is asked, all workers end at a save point of each job, resumable, within seconds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from tests.distributed.command import FAULTY, Place

from motet.cli.run import parse
from motet.errors import GangError, UsageError
from motet.launcher.agent import STOP_SECONDS
from motet.testing import Gang
from motet.workers.interruption import GRACE_SECONDS, PATIENCE_SECONDS, Interruption
from motet.workers.messages import GO_ON, STOP, STOP_NOW
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
    for report in gangs(2).run(f"{JOBS}limited", str(tmp_path), 0.3):
        status, turns, _ = report["jobs"]["saves"]
        assert status == "stopped"
        assert 0 < turns < 10**6
        assert (tmp_path / "checkpoints" / "saves" / f"turn-{turns:08d}").is_dir()


def test_a_loop_that_reaches_no_save_point_is_stopped_all_the_same(
    new_gang: Callable[[int], Gang], tmp_path: Path
) -> None:
    for report in new_gang(2).run(f"{JOBS}never_at_a_save_point", str(tmp_path), 0.5):
        assert {name: job[0] for name, job in report["jobs"].items()} == {"deaf": "stopped", "saves": "stopped"}
    assert (tmp_path / "checkpoints" / "saves").is_dir()
    assert not (tmp_path / "checkpoints" / "deaf").exists()


def test_jobs_that_have_not_begun_are_stopped_too(new_gang: Callable[[int], Gang], tmp_path: Path) -> None:
    for report in new_gang(2).run(f"{JOBS}many_waiting", str(tmp_path)):
        assert {job[0] for job in report["jobs"].values()} == {"stopped"}
        assert len(report["jobs"]) == 13


LOADING = "tests.distributed.jobs_faulty:loading"


def steps_of(place: Place, job: str) -> int:
    path = place.path / f"{job}.steps"
    with contextlib.suppress(FileNotFoundError, ValueError):  # it is being written
        return int(path.read_text())
    return 0


def send_to_all(place: Place, number: int, what: int = signal.SIGTERM) -> None:
    """Send a signal to all processes of a run at once, as batch systems do; ``number``: another order each time."""
    rank = {"resume": 0, "run": 0, "motet.entry": 1}

    def kind(process: psutil.Process) -> int:
        command = process.cmdline()
        parent = process.parent()
        is_worker = "motet.entry" in command and (parent is None or "motet.entry" not in parent.cmdline())
        return (
            rank["motet.entry"] if is_worker else next((rank[word] for word in ("resume", "run") if word in command), 2)
        )

    found = sorted(place.processes(), key=kind, reverse=number % 2 == 0)  # DataLoader workers first, or last
    assert len(found) >= 7, "a launcher, two workers, and two of each of these"
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.send_signal(what)


@pytest.mark.parametrize("context", [None, "spawn"])
def test_sigusr1_to_every_process_is_a_stop(place: Place, context: str | None) -> None:
    # One epoch: where the next one's loaders have to be spawned first, a job on a busy machine comes to no save point
    # within the time that a stop has.
    loop = {"pause": 0.01, "context": context, "epochs": 1, "workers": 2, "samples": 64_000}
    (place.path / "jobs.yaml").write_text(json.dumps({"jobs": {"a": {"call": LOADING, "with": loop}}}))
    for number, what in enumerate((signal.SIGUSR1, signal.SIGUSR2)):
        process = place.start("run", TWO, "jobs.yaml", "--run-dir=out")
        before, deadline = steps_of(place, "a"), time.monotonic() + 100
        while len(list(place.processes())) < 7 or steps_of(place, "a") < before + 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        send_to_all(place, number, what)
        status, out, err = place.ended(process)
        assert status == 3, (out, err)
        assert place.jobs_of() == {"a": "stopped"}, (out, err)
        assert place.checkpoints("a")[-1] == f"turn-{place.jobs_of(field='turns')['a']:08d}"
        assert not list((place.path / "out").glob("jobs/*/attempts/*")), "nobody is charged"


def test_what_is_ignored_at_the_start_stays_ignored(place: Place) -> None:
    jobs = place.jobs(a={"steps": 10**6, "pause": 0.01, "tell": "ready"})
    process = place.start("run", jobs, "--run-dir=out", prefix=("nohup",))
    place.wait_until("ready", process)
    process.send_signal(signal.SIGHUP)
    [worker] = place.workers()
    with pytest.raises(psutil.TimeoutExpired):
        worker.wait(timeout=2)
    process.send_signal(signal.SIGTERM)
    status, out, err = place.ended(process)
    assert status == 3, (out, err)


@pytest.mark.parametrize("what", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_before_anything_was_started(place: Place, what: signal.Signals) -> None:
    (place.path / "slow.py").write_text("import pathlib, time\npathlib.Path('here').touch()\ntime.sleep(1000)\n")
    (place.path / "jobs.yaml").write_text(json.dumps({"jobs": {"a": {"call": "slow:train"}}}))
    process = place.start("run", "jobs.yaml", "--run-dir=out")
    place.wait_until("here", process)
    process.send_signal(what)
    status, out, err = place.ended(process)
    assert status == 3, (out, err)
    assert f"stopped by {what.name} before anything was started" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("house", "context"), [("together", None), ("together", "spawn"), ("process", None)])
def test_sigterm_to_every_process_is_a_stop(
    place: Place, gangs: Callable[[int], Gang], house: str, context: str | None
) -> None:
    """Six times in a row, and the same command goes on each time."""
    jobs = {
        name: {"call": LOADING, "with": {"seed": seed, "pause": 0.01, "context": context}}
        for name, seed in {"a": 1, "b": 2}.items()
    }
    (place.path / "jobs.yaml").write_text(json.dumps({"jobs": jobs}))
    command = ["run", TWO, f"--house={house}", "jobs.yaml", "--run-dir=out", "--max-job-failures=0"]
    whole = {"together": 7, "process": 14}[house]
    for number in range(6 if context is None else 2):
        before = {name: steps_of(place, name) for name in jobs}
        process = place.start(*command)
        deadline = time.monotonic() + 100
        # With all their loaders: these end and begin with every epoch.
        while len(list(place.processes())) < whole or any(
            steps_of(place, name) < before[name] + 4 + number for name in jobs
        ):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        send_to_all(place, number)
        begin = time.monotonic()
        status, out, err = place.ended(process)
        assert time.monotonic() - begin < 30
        assert status == 3, (out, err)
        assert set(place.jobs_of().values()) == {"stopped"}, (out, err)
        assert "Traceback" not in out + err, (out, err)
        assert not list((place.path / "out").glob("jobs/*/attempts/*")), "nobody is charged"
        if context is None:
            turns = place.jobs_of(field="turns")
            for name in jobs:
                assert place.checkpoints(name)[-1] == f"turn-{turns[name]:08d}", "each is saved where it stopped"
    status, out, err = place.motet(*command)
    assert status == 0, (out, err)
    alone = {name: gangs(2).run(LOADING, seed=seed)[0] for name, seed in {"a": 1, "b": 2}.items()}
    assert place.jobs_of(field="result") == alone


def test_what_fails_while_any_worker_is_asked_to_stop_is_stopped(
    new_gang: Callable[[int], Gang], tmp_path: Path
) -> None:
    for report in new_gang(2).run(f"{JOBS}fails_while_stopping", str(tmp_path), False):
        assert report["jobs"]["saves"][:2] == ("stopped", 7), report
    assert not list(tmp_path.glob("jobs/saves/ended.json"))
    assert not list(tmp_path.glob("jobs/saves/attempts/*"))


def test_who_fails_alone_while_another_is_asked_to_stop_is_not_charged(
    new_gang: Callable[[int], Gang], tmp_path: Path
) -> None:
    failed, other = new_gang(2).attempt(f"{JOBS}fails_while_stopping", str(tmp_path), True)
    assert "no such layer" in str(failed.error), "it is told all the same"
    assert failed.kind == other.kind == "WorkerFailedError"
    assert not list(tmp_path.glob("jobs/saves/attempts/*"))


def test_what_ended_a_jobs_process_may_reach_the_worker_later() -> None:
    interruption = Interruption()
    assert not interruption.explains("ValueError: no such layer"), "at once"
    with interruption.listening():
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert interruption.explains("RuntimeError: DataLoader worker (pid 5) is killed by signal: Terminated.")
        assert interruption.explains("ValueError: no such layer"), "whatever it is, from then on"


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

    def pass_by(seconds: float) -> None:
        nonlocal now
        for _ in range(round(seconds)):
            now += 1
            interruption.look()

    assert (interruption.requested, interruption.stop_request, interruption.hopeless()) == (False, GO_ON, None)
    pass_by(60)
    assert (interruption.requested, interruption.stop_request, interruption.hopeless()) == (True, STOP, None)
    now += 3600  # all were stopped for an hour (Ctrl-Z)
    assert (interruption.requested, interruption.stop_request, interruption.hopeless()) == (True, STOP, None)
    pass_by(PATIENCE_SECONDS + 1)
    assert interruption.stop_request == STOP_NOW
    pass_by(GRACE_SECONDS)
    assert isinstance(interruption.hopeless(), GangError)
    interruption.settled()
    assert interruption.hopeless() is None


def test_a_signal_is_noted_once() -> None:
    interruption = Interruption()
    with interruption.listening():
        signal.raise_signal(signal.SIGINT)
        assert interruption.signal_name == "SIGINT"
        time.sleep(0.6)
        assert interruption.check_signals() is None, "the main thread has seen it: it is no second one"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0), ("1h30m", 5400.0), ("1d", 86400.0)],
)
def test_times(text: str, seconds: float) -> None:
    options = parse(["j.yaml", f"--stop-after={text}"])
    assert options.config.stop_after_seconds == seconds


@pytest.mark.parametrize("text", ["", "h", "2 h", "-1", "0", "0s", "1h30", "soon", "1e3", "2w", "nan", "inf"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--stop-after"):
        parse(["j.yaml", f"--stop-after={text}"])
