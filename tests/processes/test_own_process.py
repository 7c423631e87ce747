"""A job's process is its own: its files, its environment, its groups, and nothing of the program that began the run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.distributed.command import Place
from tests.processes.command import HOUSE, place_in

LEAVES_A_FILE = """
left = open("left.txt", "w")
left.write("written at the end")
"""
SECRET = """
import os
print(os.environ["API_KEY"] in open(f"/proc/{os.getpid()}/cmdline").read(), os.environ["API_KEY"])
"""
MEETS_BY_TCP = """
import os, torch, torch.distributed as dist
place = f"tcp://{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
dist.init_process_group("gloo", init_method=place, rank=int(os.environ["RANK"]), world_size=2)
each = torch.ones(1)
dist.all_reduce(each)
print("sum", each.item())
dist.destroy_process_group()
"""
BACKWARD_OF_ONE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
for _ in range(5):
    model(torch.randn(3, 2)).sum().backward()
    if dist.get_rank() == 0:
        torch.ones(1, requires_grad=True).sum().backward()
dist.destroy_process_group()
"""
RETURNS_ITS_OWN = """
class Thing:
    pass

def train():
    return Thing()
"""
FORKS = """
import os

def train():
    child = os.fork()
    if child == 0:
        return "the child's"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
BEGINS_A_RUN = """
import contextlib, io, os, tempfile
import motet

def train():
    print("printed by the job")
    return os.getpid()

folder = tempfile.TemporaryDirectory()
with contextlib.redirect_stdout(io.StringIO()):
    results = motet.run({"a": train, "b": train}, house="process")
assert all(job.status == "finished" for job in results.values()), results
assert len({os.getpid(), *(job.result for job in results.values())}) == 3
print("there" if os.path.isdir(folder.name) else "gone")
"""


COMPUTES_BEFORE = """
import motet, torch

torch.set_num_threads(2)
numbers = torch.arange(1 << 20, dtype=torch.float32)

def train():
    return numbers.add(1).sin().sum().item(), torch.get_num_threads()

if __name__ == "__main__":
    expected = train()
    for _ in range(2):
        results = motet.run({"a": train, "b": train}, house="process")
        assert all(job.result == expected for job in results.values()), results
        assert train() == expected
    print(expected)
"""


def jobs_in(place: Place, jobs: dict[str, dict[str, object]]) -> None:
    """Write a jobs file."""
    (place.path / "jobs.yaml").write_text(json.dumps({"jobs": jobs}))


def test_what_is_a_jobs_own(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        scripts = {"file": LEAVES_A_FILE, "secret": SECRET, "tcp": MEETS_BY_TCP, "one": BACKWARD_OF_ONE}
        for name, text in scripts.items():
            (tmp_path / f"{name}.py").write_text(text)
        (tmp_path / "own_class.py").write_text(RETURNS_ITS_OWN)
        (tmp_path / "forks.py").write_text(FORKS)
        jobs: dict[str, dict[str, object]] = {name: {"script": f"{name}.py"} for name in scripts}
        jobs["secret"]["env"] = {"API_KEY": "k3y"}
        jobs["tcp-too"] = {"script": "tcp.py"}
        jobs["returns"] = {"call": "own_class:train"}
        jobs["forks"] = {"call": "forks:train"}
        jobs_in(place, jobs)
        status, out, err = place.motet("run", "--nproc-per-node=2", HOUSE, "jobs.yaml", "--run-dir=out")
        assert status == 0, (out, err)
        assert place.jobs_of(field="result")["forks"] == 0, "what it forks ends by itself, and is no second worker"
        logs = {name: (tmp_path / "out" / "jobs" / name / "log.txt").read_text() for name in jobs}
        assert (tmp_path / "left.txt").read_text() == "written at the end"
        assert logs["secret"] == "False k3y\n"
        assert logs["tcp"] == logs["tcp-too"] == "sum 2.0\n"
        assert place.results()["jobs"]["one"]["turns"] == 5, "what only one worker computes is no turn"
        assert not list((tmp_path / "out" / "jobs").glob("*/.result-*")), "nothing of a result's way is left"


def test_a_program_that_begins_a_run_keeps_what_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(BEGINS_A_RUN)
    done = subprocess.run(
        [sys.executable, "program.py"], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "there"


def test_a_program_that_has_computed_on_several_threads_can_begin_a_run(tmp_path: Path) -> None:
    """GNU's OpenMP would wait for ever for threads that are not there after a fork."""
    (tmp_path / "program.py").write_text(COMPUTES_BEFORE)
    done = subprocess.run(
        [sys.executable, "program.py"], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_jobs_join_by_memory_and_what_they_take_is_reported(tmp_path: Path) -> None:
    with place_in(tmp_path) as place:
        (tmp_path / "one.py").write_text(BACKWARD_OF_ONE)
        each = ("--each=--a", "--each=--b")
        status, out, err = place.motet(
            "run", "--nproc-per-node=2", HOUSE, "--at-once=auto", "one.py", *each, "--run-dir=out", "--tracker=csv"
        )
        assert status == 0, (out, err)
        trace = (tmp_path / "out" / "trace.json").read_text()
        assert json.loads(trace), "other programs can open it"
        assert all(f'"{job}' in trace for job in place.jobs_of())
        assert (tmp_path / "out" / "report.html").exists()
        assert len((tmp_path / "out" / "trackers" / "csv" / "jobs.csv").read_text().splitlines()) == 3
        for held in place.jobs_of(field="memory").values():
            assert held["parameters_bytes"] == 4 * (2 * 2 + 2)
            assert held["process_bytes"] > 10e6


def test_modules_beside_one_script_are_not_imported_for_all(tmp_path: Path) -> None:
    """Two folders, each with a ``common.py`` of its own."""
    with place_in(tmp_path) as place:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "common.py").write_text(f"NAME = {name!r}\n")
            (tmp_path / name / "train.py").write_text("import common\nprint(common.NAME)\n")
        (tmp_path / "common.py").write_text("NAME = 'of the current folder'\n")
        jobs_in(place, {name: {"script": f"{name}/train.py"} for name in ("a", "b")})
        status, out, err = place.motet("run", "--nproc-per-node=1", HOUSE, "jobs.yaml", "--run-dir=out")
        assert status == 0, (out, err)
        for name in ("a", "b"):
            assert (tmp_path / "out" / "jobs" / name / "log.txt").read_text() == f"{name}\n"
