"""Failures as a user meets them: the right one ends, the message names it, nobody hangs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.distributed.command import FAULTY, Place

from motet.testing import Gang

TWO = "--nproc-per-node=2"
Gangs = Callable[[int], Gang]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def test_failures_that_all_workers_meet_are_their_jobs_own(place: Place, gangs: Gangs) -> None:
    jobs = place.jobs(
        raises={"what": "raise", "at": 4},
        memory={"what": "oom", "at": 6},
        nan={"what": "nan", "at": 8},
        good={"seed": 2},
    )
    status, _, err = place.motet("run", TWO, jobs, "--run-dir=out", "--on-nan=stop-job")
    assert status == 1, err
    assert place.jobs_of() == {"raises": "failed", "memory": "failed", "nan": "failed", "good": "finished"}
    errors = place.jobs_of(field="error")
    assert "ValueError: no such layer" in errors["raises"]
    assert "allocate" in errors["memory"]
    assert "turn 9" in errors["nan"]
    assert "holds NaN" in errors["nan"]
    assert place.jobs_of(field="turns")["raises"] == 4
    assert place.jobs_of(field="result")["good"] == gangs(2).run(FAULTY, seed=2)[0]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("short", ["last turns: ", "bad 10", "job 'bad' has finished in turn 11"]),
        ("unsynchronized", ["different turns|took different ways|did not end alike", "no_sync|uneven"]),
        ("other-shape", ["took different ways|other workers did not meet", "job 'bad'"]),
    ],
)
def test_workers_that_diverge_are_named_side_by_side(place: Place, what: str, words: list[str]) -> None:
    jobs = place.jobs(bad={"what": what, "at": 10, "every": None}, good={"seed": 2, "steps": 200})
    status, out, err = place.motet("run", TWO, jobs, "--run-dir=out", "--quiet")
    assert status == 4, (out, err)
    for word in words:
        assert any(one in err for one in word.split("|")), (word, err)
    assert "worker 0" in err
    assert "worker 1" in err
    assert "Traceback" not in err
    assert set(place.jobs_of().values()) == {"stopped"}


def test_a_model_of_another_shape_on_one_worker(place: Place) -> None:
    jobs = place.jobs(bad={"what": "wider-alone", "every": None}, good={"seed": 2, "steps": 200})
    status, out, err = place.motet("run", TWO, jobs, "--run-dir=out", "--quiet")
    assert status == 4, (out, err)
    assert "'bad'" in err
    assert "worker 1" in err.lower()
    assert set(place.jobs_of().values()) == {"stopped"}


def test_one_worker_that_runs_out_of_memory_ends_the_gang_and_its_job_is_charged(place: Place, gangs: Gangs) -> None:
    jobs = place.jobs(bad={"what": "oom-alone", "at": 6}, good={"seed": 2})
    status, _, err = place.motet("run", TWO, "--max-restarts=5", "--max-job-failures=0", jobs, "--run-dir=out")
    assert status == 1, err
    assert "worker 1, job 'bad', turn 7" in err
    assert "allocate" in err
    assert place.jobs_of() == {"bad": "failed", "good": "finished"}
    assert place.jobs_of(field="result")["good"] == gangs(2).run(FAULTY, seed=2)[0]


def test_a_worker_that_stalls_is_waited_for_until_the_timeout(place: Place) -> None:
    saved = "out/checkpoints/a/turn-00000010"
    jobs = place.jobs(a={"what": "stall", "after": saved, "every": 10, "steps": 10_000}, b={"seed": 2, "steps": 10_000})
    process = place.start("run", TWO, jobs, "--run-dir=out", "--timeout=4s", "--quiet")
    place.wait_until(saved, process)
    begin = time.monotonic()
    status, out, err = place.ended(process)
    assert status == 4, (out, err)
    assert "timeout is 4 s" in err
    assert re.search(r"worker 1 did not end by itself and was ended, in turn \d+ of job 'a'", err), err
    assert time.monotonic() - begin < 100
    assert "turn-00000010" in place.checkpoints("a")


JOINS = """
import sys, threading
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(4, 1))
kinds = {"a lock": threading.Event().wait, "a collective": lambda: dist.recv(torch.zeros(1))}
for step in range(4):
    model(torch.randn(8, 4)).sum().backward()
    if step == 2 and sys.argv[1:]:
        thread = threading.Thread(target=kinds[sys.argv[1]], daemon=True)
        thread.start()
        thread.join()  # line 15
"""


@pytest.mark.parametrize("kind", ["a lock", "a collective"])
def test_a_gang_in_which_nobody_ever_moves_again_is_ended(place: Place, kind: str) -> None:
    (place.path / "joins.py").write_text(JOINS)
    status, out, err = place.motet(
        "run", TWO, "joins.py", f"--each='{kind}'", "--each=", "--run-dir=out", "--timeout=4s", "--quiet"
    )
    assert status == 4, (out, err)
    assert "the timeout is 4 s" in err
    for worker in range(2):
        assert f"worker {worker}: in job 'joins-1', turn 4, computing for" in err
    assert "joins.py:15 in <module>" in err
    assert "--timeout" in err


def test_a_worker_that_comes_back_in_time_is_nobodys_failure(place: Place, gangs: Gangs) -> None:
    jobs = place.jobs(a={"what": "stall", "at": 12}, b={"seed": 2})
    process = place.start("run", TWO, jobs, "--run-dir=out", "--timeout=60s", "--quiet")
    while not (stopped := [worker for worker in place.workers()[1:] if worker.status() == "stopped"]):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(5)  # longer than the workers take to grow suspicious
    stopped[0].resume()
    status, _, err = place.ended(process)
    assert status == 0, err
    assert place.jobs_of(field="result")["a"] == gangs(2).run(FAULTY)[0]


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = place.path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_reported_and_training_goes_on(place: Place, small_disk: Path) -> None:
    jobs = place.jobs(big={"width": 40_000, "steps": 12, "every": 2}, small={"seed": 2, "steps": 60, "every": None})
    (small_disk / "ballast").write_bytes(b"x" * 5_300_000)
    _, _, err = place.motet("run", TWO, jobs, "--run-dir=small/run", "--timeout=60")
    assert "could not be written" in err, err
    assert err.count("goes on without being saved") == 1, "told once"
    assert "big finished after 12 turns" in err, err
    assert "small finished after 60 turns" in err
    assert not [name for name in place.checkpoints("big", "small/run") if name.startswith(".writing")]
    assert "Traceback" not in err


def test_the_remedy_for_buffers_written_on_some_workers_is_an_option(place: Place) -> None:
    jobs = {"jobs": {"a": {"call": "tests.distributed.jobs_buffers:changed_unseen"}}}
    (place.path / "jobs.yaml").write_text(json.dumps(jobs))
    status, out, err = place.motet("run", TWO, "jobs.yaml", "--run-dir=out")
    assert status == 4, (out, err)
    assert "--buffers blocking" in err
    status, out, err = place.motet("run", TWO, "jobs.yaml", "--run-dir=again", "--buffers", "blocking")
    assert status == 0, (out, err)
    assert json.loads((place.path / "again" / "run.json").read_text())["buffers"] == "blocking"
