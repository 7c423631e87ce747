"""A sweep's report says which job did best; what cannot be compared, or told better from worse, is not ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.unit.observe import synthetic

from motet.errors import UsageError
from motet.observe import build_report, summary_text
from motet.observe.digest import digest
from motet.observe.ranking import Logged, mode_of, ranking


@dataclass
class Job:
    name: str
    values: Mapping[str, Logged] = field(default_factory=dict)
    status: str = "finished"
    target: str = "train.py"


def job(name: str, status: str = "finished", target: str = "train.py", diverged: str = "", **values: float) -> Job:
    logged = {key: Logged(key, 9.0, value, 5, diverged=diverged) for key, value in values.items()}
    return Job(name, logged, status, target)


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("loss", "min"), ("val_loss", "min"), ("valLoss", "min"), ("eval/perplexity", "min"), ("bits_per_byte", "min"),
        ("accuracy", "max"), ("val_acc", "max"), ("f1", "max"), ("recall@10", "max"), ("lr", None), ("thing", None),
    ],
)  # fmt: skip
def test_modes(metric: str, mode: str | None) -> None:
    assert mode_of(metric) == mode


def test_the_best_comes_first_and_what_diverged_or_failed_last() -> None:
    jobs = [
        job("bad", loss=0.01, diverged="NaN since turn 3"),
        job("failed", "failed", loss=0.1),
        job("b", loss=0.5),
        job("a", loss=0.3),
        job("silent"),
    ]
    found = ranking(jobs)
    assert found is not None
    assert found.names == ("a", "b", "failed", "bad", "silent")
    assert (found.metric, found.mode, found.best) == ("loss", "min", "a")
    assert math.isnan(found.values["bad"])


def test_more_is_better_where_the_name_says_so_or_one_says_it() -> None:
    jobs = [job("a", val_acc=0.3, thing=1.0), job("b", val_acc=0.5, thing=2.0)]
    assert ranking(jobs).names == ("b", "a")  # type: ignore[union-attr]
    assert ranking(jobs, "thing", "min").names == ("a", "b")  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="--mode min or --mode max"):
        ranking(jobs, "thing")
    with pytest.raises(UsageError, match="did you mean 'val_acc'"):
        ranking(jobs, "val_ac")


def test_a_value_that_all_jobs_have_alike_says_nothing() -> None:
    jobs = [job("a", accuracy=0.5, loss=2.0), job("b", accuracy=0.5, loss=1.0)]
    found = ranking(jobs)
    assert found is not None
    assert (found.metric, found.best) == ("loss", "b")
    assert ranking([job("a", accuracy=0.5), job("b", accuracy=0.5)]) is None


def test_different_programs_are_not_compared_unasked() -> None:
    jobs = [job("a", target="a.py", loss=1.0), job("b", target="b.py", loss=2.0)]
    assert ranking(jobs) is None
    assert ranking(jobs, "loss").best == "a"  # type: ignore[union-attr]
    assert ranking([job("a", loss=1.0)]) is None
    assert ranking([job("a", thing=1.0), job("b", thing=2.0)]) is None


def test_the_report_and_the_summary_show_it(tmp_path: Path) -> None:
    run_dir = synthetic.record(tmp_path, synthetic.sixteen())
    run = digest(run_dir)
    assert run.ranking is not None
    best = run.ranking.best
    assert f"  best         {best} (" in summary_text(run_dir)
    page = build_report(run_dir).read_text()
    assert f"best {run.ranking.metric}</span>" in page
    assert page.index(f"</span>{best} <span class=") < page.index(f"</span>{run.ranking.names[-1]}<div")
