"""A search of Optuna's on two hosts: worker 0's host alone has the study, and both take the same trials."""

from __future__ import annotations

import json
import sqlite3
import sys

import pytest
from tests.clusters.hosts import Hosts, ended
from tests.clusters.runs import port

pytest.importorskip("optuna", reason="Optuna is not installed")
PROGRAM = """
import hashlib, json, os
import optuna, torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from motet.integrations.optuna import optimize

taken = []

def objective(trial):
    lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
    taken.append((trial.number, lr))
    torch.manual_seed(0)
    model = DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    data = torch.Generator().manual_seed(dist.get_rank())
    for step in range(6):
        optimizer.zero_grad()
        loss = (model(torch.randn(4, 8, generator=data)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        trial.report(float(model.module.weight.detach().square().sum()), step)
        if trial.should_prune():
            raise optuna.TrialPruned
    weights = hashlib.sha256(model.module.weight.detach().numpy().tobytes()).hexdigest()
    trial.set_user_attr("weights", weights)
    taken.append((trial.number, weights))
    return float(model.module.weight.detach().square().sum())

def study():
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=3, constant_liar=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
    return optuna.create_study(storage="sqlite:////srv/search.db", study_name="s", sampler=sampler, pruner=pruner)

results = optimize(study, objective, n_trials=8, at_once=3)
print("TAKEN", json.dumps([taken, {name: job.status for name, job in results.items()}]))
"""


@pytest.mark.in_ci
def test_a_search_on_two_hosts(hosts: Hosts) -> None:
    (hosts.shared / "search.py").write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    where = ["--master-addr=h0", f"--master-port={port[0]}"]
    both = [hosts.start(f"h{rank}", *launcher, f"--node-rank={rank}", *where, "search.py") for rank in (1, 0)]
    answers = [ended(process) for process in both]
    assert [status for status, _, _ in answers] == [0, 0], answers
    lines = [next(line for line in out.splitlines() if line.startswith("TAKEN ")) for _, out, _ in answers]
    assert lines[0] == lines[1], "the same trials, in the same order, with the same weights"
    taken, statuses = json.loads(lines[0].removeprefix("TAKEN "))
    assert len(statuses) == 8
    assert set(statuses.values()) <= {"finished", "pruned"}
    assert sorted({number for number, _ in taken}) == list(range(8))
    with sqlite3.connect(hosts.disk("h0") / "search.db") as study:
        states = [state for (state,) in study.execute("select state from trials order by number")]
    assert [state == "PRUNED" for state in states] == [status == "pruned" for status in statuses.values()], states
    assert not (hosts.disk("h1") / "search.db").exists(), "only worker 0 talks to the storage"
