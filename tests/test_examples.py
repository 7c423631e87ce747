"""Every example runs, and each script ends under Motet exactly as torchrun lets it end by itself.

The scripts were written as one writes them without Motet: nothing in them knows of it.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
CLOCKS = ("runtime", "per_second", "flos")
needs_lightning = pytest.mark.skipif(find_spec("lightning") is None, reason="Lightning is not installed")
needs_transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="Transformers is not installed")
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="PEFT is not installed")
pytestmark = pytest.mark.skipif(find_spec("sklearn") is None, reason="scikit-learn is not installed")


def run(*words: str, folder: Path) -> str:
    """Run a Python module with arguments; return what it printed on stdout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHELASTIC", "PET_", "PYTEST"))}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr
    return ended.stdout


def together(jobs: str, folder: Path) -> tuple[Path, dict[str, Any], str]:
    """Run an example's jobs file on two workers; return the jobs' folder, the results, and what was printed."""
    printed = run("motet", "run", "--nproc-per-node=2", str(EXAMPLES / jobs), "--run-dir=out", folder=folder)
    results = json.loads((folder / "out" / "results.json").read_text())["jobs"]
    assert {job["status"] for job in results.values()} == {"finished"}
    return folder / "out" / "jobs", results, printed


def alone(script: str, *arguments: str, folder: Path) -> str:
    """Run a script as torchrun does, on loopback."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return run(*launcher, str(EXAMPLES / script), *arguments, folder=folder)


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert list(one) == list(other)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_sweep_of_one_script(tmp_path: Path) -> None:
    jobs, results, printed = together("sweep.yaml", tmp_path)
    assert len(results) == 4
    assert "[lr0.1-width128] epoch 4: loss" in printed
    report = alone("train_digits.py", "--lr=0.1", "--width=128", "--save-to=alone.pt", folder=tmp_path)
    assert_same_weights(torch.load(jobs / "lr0.1-width128" / "model.pt"), torch.load(tmp_path / "alone.pt"))
    assert (jobs / "lr0.1-width128" / "log.txt").read_text() == report


@needs_lightning
def test_a_lightning_pair(tmp_path: Path) -> None:
    jobs, results, printed = together("lightning_pair.yaml", tmp_path)
    assert [job["turns"] for job in results.values()] == [69, 69]
    assert "[wide] accuracy 0.9" in printed
    alone("train_lightning.py", "--width=48", "--lr=1e-3", "--precision=bf16-mixed", "--dir=alone", folder=tmp_path)
    folders = (jobs / "wide", tmp_path / "alone")
    saved = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False) for folder in folders)
    assert_same_weights(*(checkpoint["state_dict"] for checkpoint in saved))
    one, other = (
        list(csv.DictReader((folder / "logs" / "metrics.csv").read_text().splitlines())) for folder in folders
    )
    assert one == other
    assert len(one) > 10


@needs_transformers
def test_fine_tuning_of_several_small_models(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    jobs, results, printed = together("fine_tune.yaml", tmp_path)
    assert list(results) == ["bert", "distilbert", "gpt2"]
    assert printed.count("] accuracy ") == 3
    alone("fine_tune.py", "--model=gpt2", "--dir=alone", folder=tmp_path)
    folders = (jobs / "gpt2" / "out", tmp_path / "alone")
    assert_same_weights(*(load_file(folder / "model.safetensors") for folder in folders))
    one, other = (json.loads((folder / "trainer_state.json").read_text())["log_history"] for folder in folders)
    assert [_without_clocks(entry) for entry in one] == [_without_clocks(entry) for entry in other]
    assert len(one) > 6


@needs_peft
def test_adapters_of_one_base(tmp_path: Path) -> None:
    jobs, results, printed = together("lora.yaml", tmp_path)
    assert len(results) == 4
    assert all(job["memory"]["shared_bytes"] > 4_000_000 for job in results.values())
    assert printed.count("] step 40: loss") == 4
    alone("lora.py", "--rank=8", "--lr=0.01", "--save-to=alone.pt", folder=tmp_path)
    assert_same_weights(torch.load(jobs / "rank8-lr0.01" / "adapter.pt"), torch.load(tmp_path / "alone.pt"))


def test_students_of_one_teacher(tmp_path: Path) -> None:
    printed = run("students", folder=EXAMPLES)
    assert "2 jobs share 1.6 MB of frozen weights: 1.6 MB saved" in printed


def test_an_ensemble_that_votes(tmp_path: Path) -> None:
    printed = alone("ensemble.py", "--members=3", folder=tmp_path)
    accuracies = {line.split(":")[0]: float(line.split()[-1]) for line in printed.splitlines() if ": accuracy" in line}
    assert list(accuracies) == ["seed0", "seed1", "seed2", "all together"]
    assert accuracies["all together"] >= max(0.85, min(accuracies.values()))


def _without_clocks(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if not any(clock in key for clock in CLOCKS)}
