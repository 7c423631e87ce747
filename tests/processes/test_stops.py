"""Stops: whoever is asked, and in whatever way, all jobs end resumable, nobody is charged, and nothing is left."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tests.distributed.command import LONGEST_SECONDS, Place
from tests.processes.command import job_processes, place_in, train_words, trained_alone, weights

STEPS, PAUSE = 120, 0.02
JOBS = {
    "saves": {"steps": STEPS, "pause": PAUSE, "save": 5},
    "seldom": {"steps": STEPS, "pause": PAUSE, "save": 500},
    "never": {"steps": STEPS, "pause": PAUSE},
}
slow = pytest.mark.slow


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return what each job leaves that runs alone, uninterrupted."""
    return trained_alone(tmp_path_factory.mktemp("alone"), steps=STEPS)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path) as place:
        yield place


def wait_until_trained(place: Place, process: subprocess.Popen[str]) -> None:
    """Wait until all jobs run, and one has saved."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while len(job_processes(process)) < 2 * len(JOBS) or not place.checkpoints("saves"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def send_to_all(place: Place) -> None:
    """Send SIGTERM to all processes of the run at once, as batch systems do."""
    for process in list(place.processes()):
        with contextlib.suppress(psutil.Error):
            process.terminate()


def charged(place: Place) -> list[Path]:
    """Return the notes of jobs' failures."""
    return [path for path in (place.path / "out").rglob("*attempt*/**/*.json") if path.is_file()]


@pytest.mark.parametrize(
    ("how", "again"),
    [
        ("ctrl-c", "resume"),
        pytest.param("sigterm to all", "the same command", marks=slow),
        pytest.param("sigterm to all", "resume", marks=slow),
        pytest.param("ctrl-c to all", "resume", marks=slow),
        pytest.param("stop-after", "the same command", marks=slow),
    ],
)
def test_a_run_that_is_stopped_goes_on_to_the_same_weights(
    place: Place, alone: dict[str, bytes], how: str, again: str
) -> None:
    pause = 0.15 if how == "stop-after" else PAUSE  # so that the moment is within its training
    words = train_words(place, {name: {**job, "pause": pause} for name, job in JOBS.items()}, "--max-job-failures=0")
    process = place.start(*words, *(["--stop-after=10s"] if how == "stop-after" else []))
    if how != "stop-after":
        wait_until_trained(place, process)
    if how == "ctrl-c":
        process.send_signal(signal.SIGINT)
    elif how == "sigterm to all":
        send_to_all(place)
    elif how == "ctrl-c to all":
        for each in list(place.processes()):
            with contextlib.suppress(psutil.Error):
                each.send_signal(signal.SIGINT)
    status, out, err = place.ended(process)
    assert status == 3, (out, err)
    assert "Traceback" not in out + err
    assert set(place.jobs_of().values()) == {"stopped"}
    assert not charged(place)
    turns = place.jobs_of(field="turns")
    for name in ("saves", "seldom"):
        if turns[name]:
            assert place.checkpoints(name)[-1] == f"turn-{turns[name]:08d}", "saved where it stopped"
    if again == "the same command":
        status, out, err = place.motet(*words)
    else:
        status, out, err = place.motet("resume", "out")
    assert status == 0, (out, err)
    assert set(place.jobs_of().values()) == {"finished"}
    notices = place.results()["notices"]
    assert any("job 'never'" in notice and "starts again from its beginning" in notice for notice in notices), notices
    assert set(place.jobs_of(field="turns").values()) == {STEPS}
    for name in JOBS:
        assert weights(place.path / name) == alone, name
    assert not charged(place)


def test_a_launcher_that_is_killed_leaves_no_process_and_what_was_saved(place: Place, alone: dict[str, bytes]) -> None:
    process = place.start(*train_words(place, JOBS))
    wait_until_trained(place, process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while (left := list(place.processes())) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.1)
    assert not left, [each.cmdline() for each in left]
    status, out, err = place.motet("resume", "out")
    assert status == 0, (out, err)
    for name in JOBS:
        assert weights(place.path / name) == alone, name


@slow
def test_a_second_signal_ends_at_once(place: Place) -> None:
    """One job hangs: the first signal waits for it to come by, the second one does not."""
    jobs = {"hangs": {"steps": 10**6, "crash": "hang", "at": 3}, "other": {"steps": 10**6}}
    process = place.start(*train_words(place, jobs))
    place.wait_until("hangs/w.crashed-0", process)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=1)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    status, out, err = place.ended(process)
    assert time.monotonic() - begin < 14, "without the second one it is longer"
    assert status == 3, (out, err)
    assert set(place.jobs_of().values()) == {"stopped"}
