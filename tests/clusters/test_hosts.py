"""Hosts wait for each other aloud, were given the same or refuse, come back, and end in a sentence."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.clusters.hosts import Hosts, ended
from tests.clusters.runs import SHORT, jobs, meeting, place_of, port, results, start
from tests.distributed.command import FAULTY, HOUSED

from motet.testing import Gang

LONG = {"steps": 200, "pause": 0.02, "every": 10}
TRAIN = """
import argparse
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(8, 8))
for step in range(5):
    model(torch.randn(4, 8)).square().mean().backward()
dist.destroy_process_group()
"""


def wait_until(what: Callable[[], bool], *processes: subprocess.Popen[str], seconds: float = 150.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def saved(place: Path, turn: int = 10) -> Callable[[], bool]:
    """Return whether each job has a checkpoint of that turn or a later one."""
    return lambda: all(
        any(int(path.name[5:13]) >= turn for path in (place / "checkpoints" / name).glob("turn-????????"))
        for name in ("a", "b")
    )


def alone(gangs: Callable[[int], Gang], num_workers: int, loop: dict[str, Any], **changed: Any) -> Any:
    return gangs(num_workers).run(FAULTY, **{**loop, "pause": 0.0, **changed})[0]


@pytest.mark.parametrize("house", list(HOUSED))
def test_two_hosts_run_together_and_one_of_them_writes(hosts: Hosts, gangs: Callable[[int], Gang], house: str) -> None:
    jobs(hosts, house, a=SHORT, b=SHORT | {"seed": 2})
    words = [*meeting(), "--house", house, "--run-dir", str(place_of(hosts)), "jobs.yaml"]
    both = [start(hosts, name, *words) for name in ("h0", "h1")]
    answers = [ended(process) for process in both]
    assert [status for status, _, _ in answers] == [0, 0], answers
    assert results(place_of(hosts))["a"]["result"] == alone(gangs, 2, SHORT)
    assert [out.count("report: ") for _, out, _ in answers] == [1, 0]
    assert f"1 of 2 hosts at h0:{port[0]}" in answers[0][2] + answers[1][2], answers
    assert not list(place_of(hosts).glob("*.partial*"))


@pytest.mark.in_ci
def test_another_script_on_one_host_is_refused(hosts: Hosts) -> None:
    for name in ("h0", "h1"):
        (hosts.disk(name) / "train.py").write_text(TRAIN + (f"# {name}\n" if name == "h1" else ""))
    words = ["/srv/train.py", "--each=", *meeting(), "--run-dir", str(place_of(hosts))]
    answers = [ended(process) for process in [start(hosts, name, *words) for name in ("h0", "h1")]]
    for status, _, err in answers:
        assert (status, "/srv/train.py is another file on h1 than on h0" in err) == (2, True), answers
        assert "--allow-different" in err
    port[0] += 1
    words = ["/srv/train.py", "--each=", *meeting(), "--run-dir", str(place_of(hosts)), "--allow-different"]
    answers = [ended(process) for process in [start(hosts, name, *words) for name in ("h0", "h1")]]
    assert [status for status, _, _ in answers] == [0, 0], answers
    assert "another file on h1" in answers[1][2]


@pytest.mark.in_ci
@pytest.mark.parametrize("house", list(HOUSED))
def test_a_host_is_rebooted_and_repeats_its_command(hosts: Hosts, gangs: Callable[[int], Gang], house: str) -> None:
    jobs(hosts, house, a=LONG, b=LONG | {"seed": 2})
    place = place_of(hosts)
    words = ["jobs.yaml", *meeting(2, "--max-restarts=1"), "--house", house, "--run-dir", str(place)]
    first, second = (start(hosts, name, *words) for name in ("h0", "h1"))
    wait_until(saved(place), first, second)
    hosts.crash("h1")
    second.communicate()
    again = start(hosts, "h1", *words)
    answers = [ended(first), ended(again)]
    assert [status for status, _, _ in answers] == [0, 0], answers
    found = results(place)
    assert [found["a"]["result"], found["b"]["result"]] == [alone(gangs, 2, LONG), alone(gangs, 2, LONG, seed=2)]


@pytest.mark.parametrize("house", list(HOUSED))
def test_the_leading_host_is_rebooted_and_both_repeat_their_command(
    hosts: Hosts, gangs: Callable[[int], Gang], house: str
) -> None:
    jobs(hosts, house, a=LONG, b=LONG | {"seed": 2})
    place = place_of(hosts)
    words = ["jobs.yaml", *meeting(), "--house", house, "--run-dir", str(place)]
    first, second = (start(hosts, name, *words) for name in ("h0", "h1"))
    wait_until(saved(place), first, second)
    hosts.crash("h0")
    first.communicate()
    status, out, err = ended(second)
    assert status == 4, (out, err)
    answers = [ended(process) for process in [start(hosts, name, *words) for name in ("h1", "h0")]]
    assert [status for status, _, _ in answers] == [0, 0], answers
    assert "this run has begun before, and goes on" in answers[1][2]
    assert results(place)["a"]["result"] == alone(gangs, 2, LONG)


def test_a_late_host_joins_and_one_that_leaves_is_done_without(hosts: Hosts) -> None:
    jobs(hosts, a=LONG | {"steps": 1500}, b=LONG | {"steps": 1500, "seed": 2})
    place = place_of(hosts)
    conf = "--rdzv-conf=last_call_timeout=1,join_timeout=60"
    words = ["jobs.yaml", *meeting("1:2", conf, "--max-restarts=2"), "--run-dir", str(place)]
    first = start(hosts, "h0", *words)
    wait_until(saved(place), first)
    second = start(hosts, "h1", *words)
    wait_until((place / "state" / "worker-1").exists, first, second)
    reached = max(int(path.name[5:13]) for path in (place / "checkpoints" / "a").glob("turn-????????"))
    wait_until(saved(place, reached + 30), first, second)
    hosts.crash("h1")
    second.communicate()
    wait_until(saved(place, reached + 200), first)
    first.send_signal(signal.SIGTERM)
    status, out, err = ended(first)
    assert status == 3, (out, err)
    assert err.count("all workers start again") == 2, err
    assert json.loads((place / "results.json").read_text())["num_workers"] == 1


def test_hosts_that_share_no_disk(hosts: Hosts, gangs: Callable[[int], Gang]) -> None:
    loops = {"a": LONG, "b": LONG | {"seed": 2}}
    jobs(hosts, **loops)
    place = "/srv/run"
    words = ["jobs.yaml", *meeting(), "--run-dir", place]
    both = [start(hosts, name, *words) for name in ("h0", "h1")]
    own = {name: hosts.disk(name) / "run" for name in ("h0", "h1")}
    wait_until(saved(own["h0"]), *both)
    both[0].send_signal(signal.SIGTERM)
    answers = [ended(process) for process in both]
    assert [status for status, _, _ in answers] == [3, 3], answers
    assert "goes on without being saved" not in answers[0][2] + answers[1][2]
    assert not list(own["h1"].glob("checkpoints/*/*")), "worker 0's host keeps them all"
    assert [out.count("report: ") for _, out, _ in answers] == [1, 0]
    assert "the logs of this host's workers are in /srv/run/jobs" in answers[1][2]
    shutil.rmtree(own["h1"])  # a new host in its place
    answers = [ended(process) for process in [start(hosts, name, *words) for name in ("h0", "h1")]]
    assert [status for status, _, _ in answers] == [0, 0], answers
    for name, seed in {"a": 1, "b": 2}.items():
        assert results(own["h0"])[name]["result"] == alone(gangs, 2, LONG, seed=seed)


RUNS = """
import functools
import motet
from tests.distributed.jobs_faulty import loop

results = motet.run({"a": functools.partial(loop, steps=12, every=5)}, run_dir="/srv/tasks", resume=True)
print("weights", results["a"].result["weights"])
"""


def test_a_program_on_hosts_that_share_no_disk(hosts: Hosts, gangs: Callable[[int], Gang]) -> None:
    (hosts.shared / "runs.py").write_text(RUNS)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "h0", "MASTER_PORT": str(port[0])}
    both = [
        hosts.start(f"h{rank}", sys.executable, "runs.py", variables={**common, "RANK": str(rank)}) for rank in (0, 1)
    ]
    answers = [ended(process) for process in both]
    assert [status for status, _, _ in answers] == [0, 0], answers
    assert f"weights {alone(gangs, 2, SHORT)['weights']}" in answers[0][1]
    assert "goes on without being saved" not in answers[0][2]
    own = {name: hosts.disk(name) / "tasks" / "checkpoints" for name in ("h0", "h1")}
    assert (own["h0"] / "a" / "turn-00000012" / "worker-1.pt").exists()
    assert not list(own["h1"].glob("*/*")), "worker 0's host keeps them all"


@pytest.mark.in_ci
def test_what_is_charged_on_another_hosts_disk_counts(hosts: Hosts, gangs: Callable[[int], Gang]) -> None:
    jobs(hosts, a=SHORT | {"what": "raise-alone", "at": 7, "worker": 1}, b=SHORT | {"seed": 2})
    words = ["jobs.yaml", *meeting(2, "--max-restarts=3", "--max-job-failures=1"), "--run-dir", "/srv/charged"]
    answers = [ended(process) for process in [start(hosts, name, *words) for name in ("h0", "h1")]]
    assert [status for status, _, _ in answers] == [1, 1], answers
    own = {name: hosts.disk(name) / "charged" for name in ("h0", "h1")}
    found = results(own["h0"])
    assert "left out: it failed on one worker alone in 2 starts of the run, last on worker 1" in found["a"]["error"]
    assert found["b"]["result"] == alone(gangs, 2, SHORT, seed=2)
    assert not list(own["h1"].glob("jobs/*/attempts/*")), "counted once"


def test_three_hosts_and_a_cable_that_is_pulled(hosts: Hosts) -> None:
    jobs(hosts, a=LONG | {"steps": 10**6}, b=LONG | {"steps": 10**6})
    place = place_of(hosts)
    words = ["jobs.yaml", *meeting(3, "--timeout=8s"), "--run-dir", str(place)]
    processes = [start(hosts, name, *words) for name in ("h0", "h1", "h2")]
    wait_until(saved(place), *processes)
    hosts.link("h2", "down")
    try:
        answers = [ended(process) for process in processes]
    finally:
        hosts.link("h2", "up")
    assert [status for status, _, _ in answers] == [4, 4, 4], answers
    assert "Traceback" not in "".join(err for _, _, err in answers), answers
