"""Jobs that set no seed differ, a seeded run repeats itself; each job works in its own folder and environment."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.distributed.command import Place

UNSEEDED = """
import json, random, sys
import numpy, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
drawn = [torch.rand(()).item(), float(numpy.random.rand()), random.random()]
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    loss = model(torch.randn(8, 4)).square().mean()
    loss.backward()
    optimizer.step()
drawn.append(loss.item())
weights = [value.tolist() for value in model.module.state_dict().values()]
import motet
name = motet.current_job().job_dir / f"drawn-{dist.get_rank()}.json"
name.write_text(json.dumps({"drawn": drawn, "weights": weights}))
"""
PLACED = """
import os, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

dist.init_process_group("gloo")
model = DistributedDataParallel(torch.nn.Linear(4, 1))
for step in range(4):
    model(torch.ones(2, 4)).sum().backward()
    if dist.get_rank() == 0:
        torch.save({"who": sys.argv[1], "word": os.environ.get("WORD")}, "best.pt")
dist.barrier()
kept = torch.load("best.pt")
assert kept == {"who": sys.argv[1], "word": os.environ.get("WORD")}, kept
print("in", os.getcwd())
if "fail" in sys.argv and not os.path.exists("again"):
    dist.barrier()
    if dist.get_rank() == 0:
        open("again", "w").close()
    raise ValueError("the first time")
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "unseeded.py").write_text(UNSEEDED)
    (tmp_path / "placed.py").write_text(PLACED)
    place = Place(tmp_path)
    yield place
    place.close()


def drawn(place: Place, run_dir: str) -> dict[str, list[float]]:
    """Return what each job drew on each worker; weights are alike on all workers."""
    found = {}
    for job in ("unseeded-1", "unseeded-2"):
        notices = [
            json.loads((place.path / run_dir / "jobs" / job / f"drawn-{rank}.json").read_text()) for rank in (0, 1)
        ]
        assert notices[0]["weights"] == notices[1]["weights"]
        found |= {f"{job}/{rank}": notices[rank]["drawn"] for rank in (0, 1)}
    return found


def all_differ(*runs: dict[str, list[float]]) -> None:
    for numbers in zip(*(values for run in runs for values in run.values()), strict=True):
        assert len(set(numbers)) == len(numbers)


def test_jobs_that_set_no_seed_differ_and_a_seed_repeats_the_run(place: Place) -> None:
    jobs = ("--nproc-per-node=2", "unseeded.py", "--each", "", "--each", "")
    for run_dir in ("one", "two"):
        status, _, err = place.motet("run", *jobs, f"--run-dir={run_dir}")
        assert status == 0, err
    one, two = drawn(place, "one"), drawn(place, "two")
    all_differ(one, two)
    seed = json.loads((place.path / "one" / "run.json").read_text())["seed"]
    status, _, err = place.motet("run", *jobs, f"--seed={seed}", "--run-dir=again")
    assert status == 0, err
    assert drawn(place, "again") == one


def test_each_job_has_its_folder_and_environment_and_keeps_them_when_resumed(place: Place) -> None:
    (place.path / "jobs.yaml").write_text(
        "jobs:\n"
        "  a: {script: placed.py, args: [a], cwd: 'kept/{name}', env: {WORD: first}}\n"
        "  b: {script: placed.py, args: [b, fail], env: {WORD: second}}\n"
        "  c: {script: placed.py, args: [c]}\n"
    )
    words = ("--nproc-per-node=2", "jobs.yaml", "--run-dir=out")
    status, out, err = place.motet("run", *words, "--job-cwd={job_dir}", "--on-same-file=error")
    assert status == 1, err
    assert place.jobs_of() == {"a": "finished", "b": "failed", "c": "finished"}
    assert place.results()["notices"] == []
    assert (place.path / "kept" / "a" / "best.pt").exists()
    for name in ("b", "c"):
        assert (place.path / "out" / "jobs" / name / "best.pt").exists()
    assert not (place.path / "best.pt").exists()
    status, out, err = place.motet("resume", "out", "--retry-failed")
    assert status == 0, (out, err)
    assert f"in {place.path / 'out' / 'jobs' / 'b'}" in out


def test_the_same_output_is_reported_before_it_is_written(place: Place) -> None:
    each = ("--each", "a --output_dir out", "--each", "b --output_dir out")
    status, _, err = place.motet("run", "placed.py", *each, "--job-cwd={job_dir}", "--run-dir=apart")
    assert status == 0, err
    assert place.results("apart")["notices"] == []
    each = ("--each", "a --output_dir out --fast", "--each", "b --output_dir out --slow")
    _, _, err = place.motet("run", "placed.py", *each, "--run-dir=together")
    report = place.results("together")["notices"]
    assert report[0].startswith("jobs 'a-fast' and 'b-slow' were told to write to the same place")
    assert str(place.path / "out") in report[0]
    assert report[0] in err
    assert sum("were told" in text for text in report) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed=-1"], "takes a whole number from 0"),
        (["--job-cwd={jobdir}"], "there is no {jobdir}; use {name} or {job_dir}"),
        (["--job-cwd=placed.py"], "placed.py is a file"),
    ],
)
def test_bad_values_start_nothing(place: Place, options: list[str], message: str) -> None:
    status, _, err = place.motet("run", "placed.py", "--each", "a", "--run-dir=out", *options)
    assert status == 2
    assert message in err
    assert not (place.path / "out").exists()


BEST = """
import os, sys, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

name, width = sys.argv[1], int(sys.argv[2])
dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(4, width))
folder = "started-by-the-second" if "--stamped" in sys.argv else "."
if dist.get_rank() == 0:
    os.makedirs(folder, exist_ok=True)
for step in range(10):
    model(torch.randn(8, 4)).square().mean().backward()
    if dist.get_rank() == 0:
        torch.save({"name": name, "net": model.module.state_dict()}, os.path.join(folder, "best.pt"))
        with open(os.path.join(folder, "lines.txt"), "a") as lines:
            lines.write(f"{name} {step}\\n")
dist.barrier()
kept = torch.load(os.path.join(folder, "best.pt"))
model.module.load_state_dict(kept["net"])
print(name, "loaded the model of", kept["name"])
"""


@pytest.mark.parametrize("where", ["", "--stamped"])
def test_a_best_model_in_the_current_folder_is_reported_and_kept_apart_where_asked(place: Place, where: str) -> None:
    (place.path / "best.py").write_text(BEST)
    words = ["--nproc-per-node=2", "best.py"]
    for name, width in (("a", 1), ("b", 2)):
        words += ["--each", f"{name} {width} {where}"]
    _, _, err = place.motet("run", *words, "--run-dir=together")
    report = place.results("together")["notices"]
    path = str(place.path / where.replace("--stamped", "started-by-the-second") / "best.pt")
    assert len(report) == 2, "once while it happens, and once at the end"
    for text in report:
        assert path in text
        assert "'a+1'" in text
        assert "'b+2'" in text
        assert "--job-cwd '{job_dir}'" in text
        assert "lines.txt" not in text, "what is added to is shared"
    assert err.count(f"writes {path}, which job 'a+1' of this run has written") == 1
    assert f"writes {path}, which job" in (place.path / "together" / "report.html").read_text().replace("&#x27;", "'")
    status, out, err = place.motet("run", *words, "--run-dir=apart", "--job-cwd={job_dir}")
    assert status == 0, err
    assert place.results("apart")["notices"] == []
    assert "a loaded the model of a" in out
    assert "b loaded the model of b" in out


PROGRAM = """
import json, os, sys
from functools import partial
from pathlib import Path

import motet


def job(place):
    import random, numpy, torch
    import torch.distributed as dist
    told = {"cwd": os.getcwd(), "drawn": [torch.rand(()).item(), float(numpy.random.rand()), random.random()]}
    Path("best.json").write_text("{}")
    if place:
        Path(place, "best.json").write_text("{}")
    return told


if __name__ == "__main__":
    jobs = {name: partial(job, os.getcwd() if "shared" in sys.argv else "") for name in ("a", "b")}
    results = motet.launch(
        jobs, run_dir=sys.argv[1], job_cwd="kept/{name}", seed=int(sys.argv[2]), quiet=True, on_same_file="stop-job"
    )
    told = {name: each.result for name, each in results.jobs.items()}
    print(json.dumps({"jobs": told, "notices": [text for text in results.notices if "built no" not in text]}))
"""


def test_a_program_gives_folders_and_a_seed(place: Place) -> None:
    (place.path / "program.py").write_text(PROGRAM)
    found = []
    for words in (["one", "7"], ["two", "7"], ["three", "8", "shared"]):
        process = subprocess.run(
            [sys.executable, "program.py", *words],
            cwd=place.path, env=place.environment, capture_output=True, text=True, timeout=150, check=True,
        )  # fmt: skip
        found.append(json.loads(process.stdout.strip().splitlines()[-1]))
    one, two, three = found
    assert one == two
    assert one["notices"] == []
    for name, report in one["jobs"].items():
        assert report["cwd"] == str(place.path / "kept" / name)
    drawn = [report["drawn"] for report in (*one["jobs"].values(), *three["jobs"].values())]
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 4
    assert "job 'b' writes" in three["notices"][0]
