"""What a trainer tells of a training reaches metrics.jsonl and the report; a job that logs has its own word."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from motet.trainers.metrics import Reported, _of_transformers

SNIPPETS = Path(__file__).parent.parent.parent / "docs" / "snippets"


def test_trainers_report_how_well_their_jobs_do(tmp_path: Path) -> None:
    jobs = {
        "lightning": {"script": str(SNIPPETS / "train_lightning.py"), "args": "--out lightning"},
        "transformers": {"script": str(SNIPPETS / "train_hf.py"), "args": "--out transformers"},
    }
    (tmp_path / "jobs.yaml").write_text(json.dumps({"jobs": jobs}))
    command = [sys.executable, "-m", "motet", "run", "--nproc-per-node=2", "--run-dir=run", "jobs.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logged: dict[str, dict[str, list[float]]] = {name: {} for name in jobs}
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record["values"].items():
            logged[record["job"]].setdefault(name, []).append(value)
    assert len(logged["lightning"]["loss"]) > 3
    said = float((tmp_path / "run" / "jobs" / "lightning" / "log.txt").read_text().split("val_loss ")[-1].split()[0])
    assert logged["lightning"]["val_loss"][-1] == pytest.approx(said, abs=1e-4)
    assert len(logged["transformers"]["loss"]) >= 1
    assert not {"epoch", "train_runtime", "step"} & set(logged["transformers"])
    assert "val_loss" in (tmp_path / "run" / "report.html").read_text()


class Trainer:
    """What is read of a trainer."""

    def __init__(self, global_step: int, *history: dict[str, Any]) -> None:
        self.state = self
        self.global_step = global_step
        self.log_history = list(history)


def reported(trainer: Trainer, *, silent: bool = False) -> tuple[Reported, list[dict[str, float]]]:
    notices: list[dict[str, float]] = []
    found = Reported(notices.append, lambda: silent)
    found._read = _of_transformers(trainer)
    found.look(None)
    return found, notices


def test_entries_are_reported_once_and_those_at_the_end_too() -> None:
    trainer = Trainer(0)
    found, report = reported(trainer)
    trainer.log_history += [{"loss": 2.0, "epoch": 0.1, "step": 1}, {"eval_loss": 1.5, "eval_runtime": 3.0}]
    found.look(None)
    found.look(None)
    trainer.log_history.append({"train_loss": 1.0, "note": "text"})
    found.flush()
    found.flush()
    assert report == [{"loss": 2.0, "eval_loss": 1.5}, {"train_loss": 1.0}]


def test_what_was_reported_before_a_resume_is_not_reported_again() -> None:
    trainer = Trainer(10, {"loss": 2.0})
    found, report = reported(trainer)
    trainer.log_history.append({"loss": 1.0})
    found.flush()
    assert report == [{"loss": 1.0}]


def test_a_job_that_logs_by_itself_has_its_own_word() -> None:
    found, report = reported(Trainer(0, {"loss": 2.0}), silent=True)
    found.flush()
    assert report == []
