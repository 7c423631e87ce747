"""Runs that go on: after kills, after failures, with a script that saves nothing, under torchrun."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.distributed.command import FAULTY, Place

from motet.testing import Gang

TWO = "--nproc-per-node=2"
Gangs = Callable[[int], Gang]

SCRIPT = """
import torch
from torch.nn.parallel import DistributedDataParallel
import torch.distributed as dist, signal, os, sys
dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(3, 1))
for step in range(6):
    model(torch.ones(2, 3)).sum().backward()
print("script trained")
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def alone(gangs: Gangs, **arguments: object) -> object:
    """Return what a loop returns alone, under plain DDP."""
    return gangs(2).run(FAULTY, **arguments)[0]


def test_killed_workers_start_again_from_their_checkpoints(place: Place, gangs: Gangs) -> None:
    jobs = place.jobs(
        # pauses: that short has ended is on the disk when a is struck (it is written by a thread that gives way)
        a={"what": "kill", "at": 17, "once": "killed", "pause": 0.03},
        b={"seed": 2, "steps": 40},
        short={"seed": 3, "steps": 6},
    )
    # in turn: the determined order may let b, which has no pauses, be over by then
    status, out, err = place.motet("run", TWO, "--max-restarts=1", "--order=round-robin", jobs, "--run-dir=out")
    assert status == 0, err
    assert "worker 1 was killed by SIGKILL" in err
    assert out.count("[a] begins after") == out.count("[b] begins after") == 2
    assert "[a] begins after 15" in out or "[a] begins after 10" in out, (
        "the last checkpoint, or one that was on its way"
    )
    assert out.count("[short] begins after") == 1, "it had ended"
    results = place.jobs_of(field="result")
    assert results["a"] == alone(gangs)
    assert results["b"] == alone(gangs, seed=2, steps=40)
    assert place.jobs_of(field="turns") == {"a": 30, "b": 40, "short": 6}
    assert not [name for name in place.checkpoints("a") if name.startswith(".")], "nothing unfinished is left"


def test_a_script_that_saves_nothing_starts_again_and_is_told_so(place: Place) -> None:
    (place.path / "train.py").write_text(SCRIPT)
    (place.path / "jobs.yaml").write_text(
        f'{{"jobs": {{"plain": {{"script": "train.py"}}, "a": {{"call": "{FAULTY}", "with": '
        '{"steps": 100000, "tell": "ready", "pause": 0.01}}}}'
    )
    text = (place.path / "train.py").read_text().replace("range(6)", "range(10**6)")
    (place.path / "train.py").write_text(text)
    process = place.start("run", TWO, "jobs.yaml", "--run-dir=out", "--quiet")
    place.wait_until("ready", process)
    process.send_signal(signal.SIGTERM)
    status, _, err = place.ended(process)
    assert status == 3, err
    (place.path / "train.py").write_text(SCRIPT)
    status, out, err = place.motet("resume", "out", "--only", "plain")
    assert status == 3, err
    assert "script trained" in out
    assert "has no checkpoint" in err
    assert any("'plain'" in notice and "starts again" in notice for notice in place.results()["notices"])
    assert place.jobs_of() == {"plain": "finished", "a": "stopped"}


def test_one_workers_failure_is_charged_to_its_job(place: Place, gangs: Gangs) -> None:
    # pauses: the checkpoint of turn 5 is on the disk when turn 8 fails (it is written by a thread that gives way)
    jobs = place.jobs(bad={"what": "raise-alone", "at": 7, "pause": 0.03}, good={"seed": 2, "steps": 40})
    status, _, err = place.motet("run", TWO, "--max-restarts=5", "--order=round-robin", jobs, "--run-dir=out")
    assert status == 1, err
    assert err.count("start again") == 2, "one more try, then without it"
    assert "worker 1, job 'bad', turn 8" in err
    assert "ValueError: no such layer" in err
    assert place.jobs_of() == {"bad": "failed", "good": "finished"}
    assert place.jobs_of(field="result")["good"] == alone(gangs, seed=2, steps=40)
    assert "left out" in place.jobs_of(field="error")["bad"]
    status, out, err = place.motet("resume", "out", "--retry-failed", "--max-job-failures", "0")
    assert status == 1, (out, err)
    assert err.count("start again") == 1, "with the restarts of the command that began the run, and no more try"
    assert "job 'bad' goes on after turn 5" in err
    assert "ValueError: no such layer" in err


def test_torchrun_may_resume_with_other_workers(place: Place) -> None:
    status, _, err = place.motet("run", TWO, place.jobs(a={"steps": 30, "what": "raise", "at": 12}), "--run-dir=out")
    assert status == 1, err
    jobs = (place.path / "out" / "run.json").read_text().replace('"raise"', '""')
    (place.path / "out" / "run.json").write_text(jobs)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "motet"]
    words = [*command, "resume", "out", "--retry-failed"]
    done = subprocess.run(
        words, cwd=place.path, env=place.environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "[a] begins after 10" in done.stdout
    assert place.jobs_of() == {"a": "finished"}
    assert any("2 workers" in notice and "differ" in notice for notice in place.results()["notices"])
