"""Gradients that a worker sums: bit for bit plain DDP's at two workers, and summed by worker number beyond."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.distributed.tables import LOOPS

from motet.testing import Gang

HERE = "tests.distributed."


@pytest.mark.parametrize("loop", LOOPS)
def test_same_weights_as_alone_at_two_workers(gangs: Callable[[int], Gang], loop: str) -> None:
    expected = LOOPS[loop]
    references = {"loop": expected.alone} if expected.alone else {}
    names = {"loop": loop, "beside": "jobs_plain:companion"}
    reports = gangs(2).run(
        f"{HERE}identity:must_equal_alone", names, references=references, sync="aggregate", **expected.options
    )
    assert reports[0]["turns"]["loop"] == expected.turns_of(2)


@pytest.mark.parametrize("aggregators", [None, [0], [2, 1]])
def test_sums_are_made_by_worker_number(gangs: Callable[[int], Gang], aggregators: list[int] | None) -> None:
    for report in gangs(3).run(f"{HERE}aggregated:aggregate", aggregators):
        assert set(report.values()) == {20}, report


@pytest.mark.parametrize("slow_worker", [None, 0, 1])
def test_slow_workers_and_changing_orders_change_nothing(gangs: Callable[[int], Gang], slow_worker: int | None) -> None:
    reports = gangs(2).run(f"{HERE}restless:jittery_run", 60, 0.004, slow_worker, sync="aggregate")
    assert reports[0] == reports[1]
    assert len(reports[0]["changed"]) > 20


def test_one_worker_alone_aggregates_for_itself(gangs: Callable[[int], Gang]) -> None:
    (report,) = gangs(1).run(f"{HERE}aggregated:aggregate", None)
    assert set(report.values()) == {20}, report


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sync": "aggregate", "aggregators": [2]}, "UsageError: aggregators must be workers of this run, 0 to 1"),
        ({"aggregators": [0]}, "UsageError: aggregators go with"),
        ({"sync": "ring"}, "UsageError: sync (--sync) takes"),
    ],
)
def test_wrong_options_are_refused(gangs: Callable[[int], Gang], options: dict[str, Any], message: str) -> None:
    for report in gangs(2).run(f"{HERE}aggregated:must_be_refused", **options):
        assert report.startswith(message)


TRAIN = """
import argparse, os, signal
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--width", type=int, default=8)
parser.add_argument("--steps", type=int, default=6)
parser.add_argument("--out")
parser.add_argument("--kill-at", type=int)
parser.add_argument("--tell")
args = parser.parse_args()
dist.init_process_group("gloo")
assert os.environ["WORLD_SIZE"] == str(dist.get_world_size()) == os.environ["LOCAL_WORLD_SIZE"]
torch.manual_seed(dist.get_rank())
model = DistributedDataParallel(torch.nn.Linear(8, args.width))
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
for step in range(1, args.steps + 1):
    if step == args.kill_at and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    optimizer.zero_grad()
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    if step == 2 and args.tell and dist.get_rank() == 0:
        with open(args.tell, "w") as ready:
            ready.write("ready")
if args.out and dist.get_rank() == 0:
    torch.save(model.module.state_dict(), args.out)
"""
DEDICATED = ("--nproc-per-node=3", "--sync=aggregate", "--aggregators=dedicated")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "motet", "run", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=120)
    return process.returncode, err


@pytest.mark.usefixtures("place")
def test_a_worker_that_only_aggregates_changes_no_weight() -> None:
    import torch

    jobs = ("train.py", "--each=--width=8 --out={job_dir}/w", "--each=--width=300 --steps=9 --out={job_dir}/w")
    plain = ended(start("--nproc-per-node=2", *jobs, "--run-dir=plain"))
    served = ended(start(*DEDICATED, *jobs, "--run-dir=served"))
    assert (plain[0], served[0]) == (0, 0), plain[1] + served[1]
    assert json.loads(Path("served/results.json").read_text())["num_workers"] == 2
    weights = sorted(Path("plain/jobs").glob("*/w"))
    assert len(weights) == 2
    for path in weights:
        one, other = torch.load(path), torch.load(Path("served", *path.parts[1:]))
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("place")
def test_a_lost_worker_ends_the_one_that_aggregates() -> None:
    status, err = ended(start(*DEDICATED, "train.py", "--each=--steps=100000 --kill-at=5", "--run-dir=out"))
    assert status == 4
    assert "worker 1 was killed by SIGKILL" in err


def test_a_stop_ends_all_in_good_order(place: Path) -> None:
    os.mkfifo(place / "ready")
    process = start(*DEDICATED, "train.py", "--each=--steps=1000000 --tell=ready", "--run-dir=out")
    assert (place / "ready").read_text() == "ready"
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    status, err = ended(process)
    assert status == 3, err
    assert "Traceback" not in err
    assert len(workers) >= 3
    assert not any(worker.is_running() for worker in workers)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--sync=aggregate", "--aggregators=x"), "0,2, or dedicated"),
        (("--aggregators=0",), "--sync aggregate"),
        (("--sync=aggregate", "--aggregators=dedicated"), "two workers at least"),
        (("--sync=aggregate", "--aggregators=1"), "0 to 0"),
    ],
)
def test_the_command_refuses_wrong_options(words: tuple[str, ...], message: str) -> None:
    status, err = ended(start("train.py", "--each=", *words))
    assert status == 2, err
    assert message in err
