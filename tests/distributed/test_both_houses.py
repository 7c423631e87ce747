"""What reaches a whole run from outside: Ctrl-Z, SIGQUIT, an open umask, a full disk, no network."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.chaos.faults import fill, small_disk
from tests.distributed.command import FAULTY, LONGEST_SECONDS, Place

from motet.testing import Gang

ENDLESS = {"steps": 10**6, "pause": 0.01, "tell": "ready"}
pytestmark = pytest.mark.parametrize("house", ["together", "process"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def words(jobs: str, house: str, *more: str) -> list[str]:
    return ["run", "--nproc-per-node=2", f"--house={house}", jobs, "--run-dir=out", "--max-job-failures=0", *more]


def charges(place: Place) -> list[Path]:
    return list((place.path / "out").glob("jobs/*/attempts/*"))


def test_ctrl_z_stops_all_and_counts_for_no_timeout(place: Place, house: str) -> None:
    jobs = place.jobs(a={"steps": 300, "pause": 0.01, "tell": "ready"})
    process = place.start(*words(jobs, house, "--timeout=3s"))
    place.wait_until("ready", process)
    process.send_signal(signal.SIGTSTP)
    launcher, deadline = psutil.Process(process.pid), time.monotonic() + LONGEST_SECONDS
    while any(each.status() != psutil.STATUS_STOPPED for each in (launcher, *place.workers())):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(8)  # for longer than the timeout
    process.send_signal(signal.SIGCONT)
    status, out, err = place.ended(process)
    assert status == 0, (out, err)
    assert "was stopped (SIGTSTP) for" in err
    assert not charges(place)


@pytest.mark.parametrize("whom", ["launcher", "all"])
def test_sigquit_ends_at_once_and_charges_nobody(place: Place, house: str, whom: str) -> None:
    process = place.start(*words(place.jobs(a=ENDLESS), house))
    place.wait_until("ready", process)
    for victim in [psutil.Process(process.pid)] if whom == "launcher" else list(place.processes()):
        with contextlib.suppress(psutil.Error):
            victim.send_signal(signal.SIGQUIT)
    status, out, err = place.ended(process)
    assert status == 3, (out, err)
    assert "Traceback" not in err
    assert place.jobs_of() == {"a": "stopped"}
    assert not charges(place)


def test_sigterm_to_all_shows_no_traceback_of_a_job_whose_child_it_ends(place: Place, house: str) -> None:
    beside = {"call": "tests.chaos.busy_loops:beside", "with": {"name": "children", "seed": 4, "pause": 0.02}}
    (place.path / "jobs.yaml").write_text(json.dumps({"jobs": {"a": beside}}))
    place.environment["MOTET_TEST_MARKS"] = str(place.path)
    process = place.start(*words("jobs.yaml", house))
    place.wait_until("a.begun", process)
    for victim in sorted(place.processes(), key=lambda each: -each.pid):  # what the job has started first
        with contextlib.suppress(psutil.Error):
            victim.terminate()
    status, out, err = place.ended(process)
    assert status == 3, (out, err)
    assert "Traceback" not in err, err
    assert place.jobs_of() == {"a": "stopped"}
    assert not charges(place)


@pytest.mark.parametrize("what", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_all_processes_leaves_data_loaders_to_their_jobs(
    place: Place, house: str, what: signal.Signals
) -> None:
    loads = {"call": "tests.chaos.busy_loops:loader", "with": {"seed": 1, "pause": 0.05}}
    (place.path / "jobs.yaml").write_text(json.dumps({"jobs": {"a": loads}}))
    place.environment["MOTET_TEST_MARKS"] = str(place.path)
    process = place.start(*words("jobs.yaml", house))
    place.wait_until("a.begun", process)
    for victim in sorted(place.processes(), key=lambda each: -each.pid):  # what the job has started first
        with contextlib.suppress(psutil.Error):
            victim.send_signal(what)
    status, out, err = place.ended(process)
    assert status == 3, (out, err)
    assert "Traceback" not in err, err
    assert place.checkpoints("a")[-1] == f"turn-{place.jobs_of(field='turns')['a']:08d}", "saved where it stopped"
    assert not charges(place)


def test_a_full_disk_at_the_start_is_one_message(place: Place, house: str) -> None:
    with small_disk(place.path / "disk") as disk:
        if disk is None:
            pytest.skip("that needs the right to mount a small disk (root)")
        fill(disk / "ballast")
        status, out, err = place.motet(*words(place.jobs(a={}), house), "--run-dir=disk/out")
    assert status == 2, (out, err)
    assert err.splitlines()[-1].startswith("motet: the run directory disk/out cannot be made: ")
    assert "No space left" in err.splitlines()[-1]
    assert len(err.splitlines()) <= 3


def test_a_disk_that_is_full_soon_keeps_no_job_from_its_end(place: Place, house: str) -> None:
    with small_disk(place.path / "disk", 40_000) as disk:
        if disk is None:
            pytest.skip("that needs the right to mount a small disk (root)")
        status, out, err = place.motet(*words(place.jobs(house, a={}), house), "--run-dir=disk/out")
    assert status == 4, (out, err)
    assert "finished after 30 turns" in err, "the training goes on"
    assert "the jobs have ended, but what came of them could not be written to " in err
    assert "results: " not in out
    assert "Traceback" not in err


def test_where_the_loopback_is_down_one_message_says_so(place: Place, house: str) -> None:
    without = ("unshare", "--net")
    if subprocess.run([*without, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("that needs the right to make a network namespace (root)")
    process = place.start(*words(place.jobs(a={}), house), prefix=without)
    status, out, err = place.ended(process)
    assert status == 2, (out, err)
    assert "bring the loopback interface up (ip link set lo up)" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_nothing_is_writable_by_everybody(place: Place, house: str) -> None:
    open_to_all = ("sh", "-c", 'umask 0; exec "$@"', "sh")
    process = place.start(*words(place.jobs(a={}), house), prefix=open_to_all)
    status, out, err = place.ended(process)
    assert status == 0, (out, err)
    found = [place.path / "out", *(place.path / "out").rglob("*")]
    assert len(found) > 10
    assert [path for path in found if path.stat().st_mode & stat.S_IWOTH] == []


DIES_BEFORE_IT_KEEPS_A_RESULT = """
import os
from pathlib import Path
from motet.checkpoints import resuming
keep = resuming.keep_or_notify
def dies(*arguments):
    if not Path("died").exists():
        Path("died").touch()
        os._exit(9)
    keep(*arguments)
resuming.keep_or_notify = dies
"""


def test_what_follows_a_loop_is_not_done_again(place: Place, house: str, gangs: Callable[[int], Gang]) -> None:
    """Worker 0 dies when the last checkpoint is on the disk, and that the job has ended is not."""
    (place.path / "sitecustomize.py").write_text(DIES_BEFORE_IT_KEEPS_A_RESULT)
    place.environment["PYTHONPATH"] = os.pathsep.join((str(place.path), place.environment["PYTHONPATH"]))
    loop = {"steps": 12, "every": 5}
    status, out, err = place.motet(*words(place.jobs(house, a=loop), house, "--max-restarts=1"))
    assert (status, (place.path / "died").exists()) == (0, True), err
    assert out.count("[a] begins after") == 1, out
    assert place.jobs_of(field="result") == {"a": gangs(2).run(FAULTY, **loop)[0]}
    assert place.jobs_of(field="turns") == {"a": 12}
