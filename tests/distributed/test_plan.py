"""``motet plan`` from outside: real workers, real costs, and nothing left of them afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from motet.testing import Gang

TRAIN = """
import argparse, os
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=8)
parser.add_argument("--fail-at", type=int)
parser.add_argument("--alone", action="store_true")
parser.add_argument("--out")
args = parser.parse_args()
dist.init_process_group("gloo")
print("begins")
model = torch.nn.Sequential(torch.nn.Linear(8, args.width), torch.nn.Linear(args.width, args.width))
model = model if args.alone else DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
for step in range(1, 1000000):
    if step == args.fail_at:
        raise ValueError("no such layer")
    optimizer.zero_grad()
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    if step == 1 and args.out:
        open(args.out, "w").close()
    if step == 3 and args.alone:
        break
"""
TWO = "--nproc-per-node=2"
JOBS = """
jobs:
  wide: {script: train.py, args: {width: 700, out: "{job_dir}/out"}, turns: 50}
  narrow: {script: train.py}
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "jobs.yaml").write_text(JOBS)
    return tmp_path


def motet(*words: str, torchrun: bool = False) -> tuple[int, str, str]:
    """Run the command; return its status, stdout and stderr. None of its scratch directories may be left."""
    start = ["-m", "torch.distributed.run", "--standalone", TWO] if torchrun else []
    done = subprocess.run(
        [sys.executable, *start, "-m", "motet", *words], capture_output=True, text=True, timeout=200, check=False
    )
    left = [path.name for path in Path(os.environ["TMPDIR"]).iterdir() if path.name.startswith("motet")]
    assert not left, f"{left}\n{done.stderr}"
    return done.returncode, done.stdout, done.stderr


def as_json(text: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(text)
    return content


def test_a_plan_is_made_saved_asked_and_followed(place: Path) -> None:
    status, out, err = motet("plan", TWO, "jobs.yaml", "--turns=4", "--save=plan.json", "--json")
    assert status == 0, err
    plan = as_json(out)
    assert "outside of {job_dir} remains" in err
    assert plan == as_json(Path("plan.json").read_text())
    wide, narrow = plan["jobs"]["wide"], plan["jobs"]["narrow"]
    assert wide["sync_bytes"] == 4 * (8 * 700 + 700 + 700 * 700 + 700)
    assert wide["sync_seconds"] > narrow["sync_seconds"] > 0
    assert wide["compute_seconds"] > 0
    assert (wide["turns"], narrow["turns"]) == (50, None)
    assert wide["buckets"]
    # SGD without momentum: parameters and gradients rest; biases are too small to be moved.
    assert wide["state_bytes"] == 2 * 4 * (8 * 700 + 700 * 700)
    assert plan["device"] == "cpu"
    assert plan["num_workers"] == 2
    assert set(plan["order"]) == {"wide", "narrow"}
    assert plan["motet_seconds"] >= plan["bound_seconds"] > 0
    assert sorted(path.name for path in place.iterdir()) == ["jobs.yaml", "plan.json", "tmp", "train.py"]

    status, out, err = motet("plan", "--profile=plan.json", "--link=10gbit", "--num-workers=64", "--data-everywhere")
    assert status == 0, err
    assert "on 64 workers" in out
    assert "one model per worker" in out

    (place / "short.yaml").write_text(JOBS.replace("width: 700", "width: 700, fail-at: 3"))
    status, out, err = motet("run", TWO, "short.yaml", "--plan=plan.json", "--run-dir=out", "--each=x")
    assert status == 2
    status, out, err = motet("run", "train.py", "--each=--alone", "--plan=plan.json", "--run-dir=out")
    assert (status, "not among the jobs" in err) == (2, True), err


def test_a_run_keeps_to_the_order_of_a_plan(place: Path) -> None:
    (place / "short.yaml").write_text(
        "jobs:\n  a: {script: train.py, args: {fail-at: 5}}\n  b: {script: train.py, args: {fail-at: 5}}\n"
    )
    cost = {"compute_seconds": 1, "sync_seconds": 1, "sync_bytes": 1, "turns": None, "buckets": []}
    plan = {"format": 1, "num_workers": 2, "transfer_cpu_fraction": 0, "order": ["b", "b", "a"]}
    (place / "plan.json").write_text(json.dumps({**plan, "jobs": {"a": cost, "b": cost}}))
    status, _, err = motet("run", TWO, "short.yaml", "--plan=plan.json", "--run-dir=out")
    assert status == 1, err
    assert as_json(Path("out/run.json").read_text())["order"] == ["b", "b", "a"]
    status, _, err = motet("run", "short.yaml", "--plan=plan.json", "--order=a,b", "--run-dir=out2")
    assert (status, "contradict" in err) == (2, True)


def test_a_job_that_fails_has_no_plan() -> None:
    status, out, err = motet("plan", TWO, "train.py", "--each=--fail-at=3", "--each=--width=16")
    assert (status, out) == (1, "")
    assert "no such layer" in err


def test_a_job_that_never_synchronizes_has_no_plan() -> None:
    status, out, err = motet("plan", TWO, "train.py", "--each=--alone", "--each=--width=16")
    assert (status, out) == (2, "")
    assert "took no turn that synchronized" in err


def test_one_worker_is_told_what_to_ask() -> None:
    status, out, err = motet("plan", "train.py", "--each=--width=16", "--turns=2")
    assert status == 0, err
    assert "--link" in out
    assert "begins" not in out


def test_torchrun_may_start_it() -> None:
    status, out, err = motet("plan", "jobs.yaml", "--turns=2", "--json", torchrun=True)
    assert status == 0, err
    assert as_json(out)["num_workers"] == 2
    status, out, err = motet("plan", "absent.yaml", torchrun=True)
    assert status != 0
    assert err.count("motet: ") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("plan",), "either JOBS"),
        (("plan", "jobs.yaml", "--profile=x"), "either JOBS"),
        (("plan", "--profile=x"), "cannot be read"),
        (("plan", "jobs.yaml", "--turns=0"), "--turns"),
        (("plan", "jobs.yaml", "--link=fast"), "10gbit"),
        (("plan", "jobs.yaml", "--num-workers=0"), "--num-workers"),
        (("plan", "jobs.yaml", "--host-link=12GB/s"), "--offload idle"),
        (("plan", "jobs.yaml", "--offload=idle", "--host-link=12"), "12GB/s"),
        (("plan", "jobs.yaml", "--order=wide"), "narrow"),
        (("plan", "jobs.yaml", "--nnodes=2"), "torchrun"),
    ],
)
def test_wrong_input_starts_nothing(words: tuple[str, ...], message: str) -> None:
    status, out, err = motet(*words)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_workers_find_the_same_profile_alone_and_together() -> None:
    with Gang(3) as gang:
        reports = gang.run("tests.distributed.profiled:profiled", timeout_seconds=120)
    assert reports[0] == reports[1] == reports[2]
    costs = reports[0]["jobs"]
    assert costs["slow"]["compute_seconds"] > 0.02, "the slowest worker tells"
    assert costs["slow"]["compute_seconds"] > costs["quick"]["compute_seconds"]
    assert costs["large"]["sync_seconds"] > costs["quick"]["sync_seconds"]
    assert costs["quick"]["turns"] == 30
    assert reports[0]["num_workers"] == 3
