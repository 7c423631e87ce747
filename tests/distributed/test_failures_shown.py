"""What is shown of a job that failed: the short form on the terminal, all of it on stderr and in the job's log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.distributed.command import Place

TRAIN = """
import argparse, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
parser = argparse.ArgumentParser()
parser.add_argument("--fail", default="")
fail = parser.parse_args().fail
if fail == "message":
    raise AttributeError("it was removed.\\nUse another one; see\\n    https://example.org/notes")
if fail == "status":
    print("no data here", file=sys.stderr)
    sys.exit(3)
dist.init_process_group("gloo")
model = DDP(torch.nn.Linear(4, 1))
for _ in range(3):
    model(torch.randn(8, 4)).sum().backward()
"""

UNKNOWN = "exit status 2; last on stderr: train.py: error: unrecognized arguments: --unknown 1"


@pytest.mark.parametrize(
    ("arguments", "short", "last"),
    [
        ("--fail message", "train.py:9: AttributeError: it was removed.", "    https://example.org/notes"),
        (
            "--fail status",
            "train.py:12: SystemExit: exit status 3; last on stderr: no data here",
            "SystemExit: exit status 3; last on stderr: no data here",
        ),
        (
            "--unknown 1",
            f"train.py:7: SystemExit: {UNKNOWN}",
            f"SystemExit: {UNKNOWN}",
        ),
    ],
)
def test_a_job_that_fails_is_reported_in_short_and_in_full(
    tmp_path: Path, arguments: str, short: str, last: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    jobs = ("--each", "--fail=", "--each", arguments)
    status, out, err = Place(tmp_path).motet("run", "--nproc-per-node=2", "--run-dir=run", "train.py", *jobs)
    assert status == 1, err
    results = json.loads((tmp_path / "run" / "results.json").read_text())["jobs"]
    assert sorted(job["status"] for job in results.values()) == ["failed", "finished"]
    (name,) = [name for name, job in results.items() if job["status"] == "failed"]
    whole = results[name]["error"].strip()
    assert whole.startswith("Traceback (most recent call last):\n")
    assert whole.splitlines()[1].strip().startswith(f'File "{script}"'), "our own frames help nobody"
    assert whole.splitlines()[-1] == last
    where = f"(all of it: run/jobs/{name}/log.txt)"
    assert f"motet: {name} failed after 0 turns: {short} {where}\n" in err
    assert f"\n{name} failed: {short} {where}\n" in out
    for log in ("log.txt", "log-worker-1.txt"):
        assert (tmp_path / "run" / "jobs" / name / log).read_text().endswith(whole + "\n")
    assert all(f"[{name}] {line}\n" in err for line in whole.splitlines())
    report = (tmp_path / "run" / "report.html").read_text()
    assert "<summary>" + short.replace("'", "&#x27;") + "</summary>" in report
    assert "JobExit" not in out + err + report


DIVERGES = """
import argparse, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from motet import current_job
parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
parser.add_argument("--silent", action="store_true")
options = parser.parse_args()
dist.init_process_group("gloo")
torch.manual_seed(0)
model = DDP(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=options.rate)
for step in range(16):
    optimizer.zero_grad()
    loss = (model(torch.ones(16, 4)) - 1).square().mean()
    loss.backward()
    optimizer.step()
    if not options.silent:
        current_job().log(loss=loss.item())
"""


def test_a_job_that_diverges_is_marked_everywhere(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(DIVERGES)
    jobs = [word for text in ("--rate 0.01", "--rate 1e9", "--rate 1e9 --silent") for word in ("--each", text)]
    status, out, err = Place(tmp_path).motet("run", "--nproc-per-node=2", "--run-dir=run", "train.py", *jobs)
    assert status == 0, err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    good, bad, silent = results["jobs"]
    assert results["jobs"][good]["nonfinite"] is None
    since = results["jobs"][bad]["nonfinite"]["loss"]["since_turn"]
    assert 2 < since < 10
    assert results["jobs"][silent]["nonfinite"]["gradients"]["since_turn"] < 10
    text = f"loss is NaN since turn {since}"
    assert any(bad in notice and text in notice for notice in results["notices"])
    assert f"motet: {bad}: has diverged: {text}" in err
    assert f"{bad} diverged: {text}" in out
    assert f"{silent} diverged: gradients are NaN since turn" in out
    assert [line.split()[2] for line in out.splitlines() if line.startswith(bad)][:1] == ["NaN"]
    report = (tmp_path / "run" / "report.html").read_text()
    assert f"→ <b>NaN since turn {since}</b>" in report
    assert f'<div class="diverged">{text}</div>' in report


ENDS = """
import os, sys, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from motet import current_job
how = sys.argv[1]
dist.init_process_group("gloo")
model = DDP(torch.nn.Linear(4, 1))
for step in range(1, 13):
    model(torch.randn(8, 4)).sum().backward()
    if step == 7 and how == "exit" and dist.get_rank() == 1:
        os._exit(7)
    if step == 7 and how == "bug" and dist.get_rank() == 1:
        from motet.pipeline.loop import Pipeline
        def planned(*_): raise RuntimeError("a planned bug")
        Pipeline._receive_costs = planned
"""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("exit", "worker 1 ended with exit status 7, in turn 8 of job 'ends' (computing)"),
        ("bug", "worker 1, after turn "),
    ],
)
def test_what_is_known_of_a_worker_that_ends_is_kept(tmp_path: Path, how: str, message: str) -> None:
    (tmp_path / "train.py").write_text(ENDS)
    jobs = {"ends": {"script": "train.py", "args": [how]}, "other": {"script": "train.py", "args": ["well"]}}
    (tmp_path / "jobs.yaml").write_text(json.dumps({"jobs": jobs}))
    # In an order of costs one job may come round more often than the other.
    words = ("run", "--nproc-per-node=2", "--order=round-robin", "--run-dir=run", "jobs.yaml")
    status, _, err = Place(tmp_path).motet(*words)
    assert status == 4, err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert message in err
    assert message in results["notices"][0]
    if how == "bug":
        assert "RuntimeError: a planned bug" in results["notices"][0]
    assert 6 <= results["jobs"]["ends"]["turns"] <= 10
    assert 5 <= results["jobs"]["other"]["turns"] <= 10
