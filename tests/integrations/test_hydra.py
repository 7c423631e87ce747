"""``hydra/launcher=motet``: a program of Hydra's, unchanged, trains the jobs of its sweep together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("hydra")
PROGRAM = """
import hashlib
import hydra, torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch.nn.parallel import DistributedDataParallel

@hydra.main(version_base=None, config_path=None, config_name=None)
def train(config: DictConfig) -> float:
    dist.init_process_group("gloo")
    torch.manual_seed(1)
    model = DistributedDataParallel(torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=config.lr)
    for step in range(10):
        optimizer.zero_grad()
        loss = model(torch.randn(4, 8)).square().mean()
        loss.backward()
        optimizer.step()
        assert HydraConfig.get().overrides.task[0] == f"+lr={config.lr}", "its own, though others had their turns"
    if config.lr > 1:
        raise ValueError("no such rate")
    weights = hashlib.sha256(model.module.weight.detach().numpy().tobytes()).hexdigest()
    if dist.get_rank() == 0:
        with open(f"weights-{config.lr}", "w") as file:
            file.write(weights)
    size = dist.get_world_size()
    dist.destroy_process_group()
    return float(loss) * size

if __name__ == "__main__":
    train()
"""


def run(place: Path, *words: str) -> tuple[int, str, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1"}
    done = subprocess.run(
        [sys.executable, "train.py", *words],
        cwd=place, env=environment, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def weights(place: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in place.glob("weights-*")}


def test_the_jobs_of_a_sweep_train_together(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    two = "hydra.launcher.nproc_per_node=2"
    status, out, err = run(tmp_path, "--multirun", "hydra/launcher=motet", two, "+lr=0.1,0.01", "hydra.sweep.dir=sweep")
    assert status == 0, (out, err)
    results = json.loads((tmp_path / "sweep" / "motet" / "results.json").read_text())
    assert (len(results["jobs"]), results["num_workers"]) == (2, 2)
    assert (tmp_path / "sweep" / "1" / ".hydra" / "overrides.yaml").read_text() == "- +lr=0.01\n"
    together = weights(tmp_path)
    for rate in ("0.1", "0.01"):
        alone = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
        subprocess.run([*alone, f"+lr={rate}"], cwd=tmp_path, check=True, capture_output=True, timeout=200)
    assert together == weights(tmp_path), "as alone, plain DDP"


def test_a_job_that_fails_is_hydras_failure(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    status, out, err = run(tmp_path, "--multirun", "hydra/launcher=motet", "+lr=0.1,10", "hydra.sweep.dir=sweep")
    assert status != 0
    assert "no such rate" in err, (out, err)
    assert "weights-0.1" in weights(tmp_path), "the other one has trained to its end"


@pytest.mark.skipif(
    find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="hydra-optuna-sweeper is not installed: it wants an Optuna older than 3",
)
def test_optunas_sweeper_asks_for_several_points_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    sweeper = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "hydra.sweep.dir=sweep"]
    words = ["--multirun", "hydra/launcher=motet", *sweeper, "hydra.sweeper.sampler.seed=1", "+lr=interval(0.01,0.1)"]
    status, out, err = run(tmp_path, *words)
    assert status == 0, (out, err)
    assert len(weights(tmp_path)) == 4
    runs = sorted(path.parent.name for path in (tmp_path / "sweep").glob("motet*/results.json"))
    assert runs == ["motet", "motet-2"], "two points at a time, together"
    assert "best_value" in (tmp_path / "sweep" / "optimization_results.yaml").read_text()
