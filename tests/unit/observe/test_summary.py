from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.unit.observe import synthetic
from tests.unit.observe.synthetic import THREE, Plan, sixteen

from motet.errors import UsageError
from motet.observe import build_report, summary_text
from motet.observe.digest import digest
from motet.observe.text import bytes_text, clock_text, listing_text, seconds_text, value_text


def test_summary_answers_the_first_questions(tmp_path: Path) -> None:
    text = summary_text(synthetic.record(tmp_path, THREE, prediction={"wall_seconds": 27.5}))
    assert text.startswith("gpt, recommender and conv were trained together on 2 workers in 24.")
    assert " less than one after another." in text.splitlines()[0]
    assert "bottleneck   both: computing and network alike" in text
    assert "predicted    27.5 s, the run took 10 % less" in text
    row = next(line for line in text.splitlines() if line.startswith("  gpt"))
    assert row.split()[1:3] == ["finished", "400/400"]
    assert "loss 2.3" in row
    assert "lr " not in row, "the learning rate does not say how well a job does"


def test_failures_are_named(tmp_path: Path) -> None:
    text = summary_text(synthetic.record(tmp_path, sixteen()))
    assert "  lr0.0001-width64 failed: train.py:41: ValueError: loss is <nan>" in text
    assert "note: metrics of worker 1 were not recorded" in text


@pytest.mark.parametrize(
    ("plans", "word"),
    [
        ({"a": Plan(80, 0.03, 0.004), "b": Plan(80, 0.03, 0.005)}, "compute"),
        ({"a": Plan(80, 0.005, 0.03), "b": Plan(80, 0.005, 0.02)}, "network"),
        ({"a": Plan(80, 0.02, 0.03), "b": Plan(80, 0.002, 0.002, 300_000)}, "one job"),
    ],
)
def test_bottleneck(tmp_path: Path, plans: dict[str, Plan], word: str) -> None:
    assert digest(synthetic.record(tmp_path, plans)).bottleneck()[0] == word


def test_saved_time_is_near_what_the_plan_says(tmp_path: Path) -> None:
    run = digest(synthetic.record(tmp_path, THREE))
    # A quarter of each backward pass is covered by the job's own sync; computing varies by 4 % on average.
    alone = sum(
        plan.turns * (1.04 * plan.compute_seconds + max(0, 1.025 * plan.sync_seconds - 0.25 * plan.compute_seconds))
        for plan in THREE.values()
    )
    assert run.estimate.one_after_another_seconds == pytest.approx(alone, rel=0.05)


def test_one_worker_has_nothing_to_hide(tmp_path: Path) -> None:
    run = digest(synthetic.record(tmp_path, THREE, num_workers=1))
    assert run.bottleneck()[0] == "compute"
    assert run.hidden_share is None
    assert abs(run.saved_seconds) < 1


def test_a_run_without_trace_is_summarised_from_its_results(tmp_path: Path) -> None:
    results = {
        "jobs": {
            "a": {"status": "finished", "turns": 12, "compute_seconds": 3.0, "sync_seconds": 2.0, "hidden_seconds": 1.5}
        },
        "num_workers": 2,
        "wall_seconds": 4.0,
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = summary_text(tmp_path)
    assert text.startswith("a was trained on 2 workers in 4.00 s.")
    assert "75 % of the time" in text


def test_a_run_without_results_is_told_so_far(tmp_path: Path) -> None:
    synthetic.record(tmp_path, THREE)
    (tmp_path / "results.json").unlink()
    text = summary_text(tmp_path)
    assert text.startswith("gpt, recommender and conv so far trained together on 2 workers for 24.")


def test_what_a_job_returns_can_say_how_well_it_did(tmp_path: Path) -> None:
    synthetic.record(tmp_path, {"a": Plan(20, 0.01, 0.01), "b": Plan(20, 0.01, 0.01)})
    path = tmp_path / "results.json"
    results = json.loads(path.read_text())
    results["jobs"]["a"]["result"] = {"metric": "recall@10", "before": 0.01, "after": 0.4, "baseline": 0.2}
    results["jobs"]["b"]["result"] = {"repr": "<Model>", "file": "jobs/b/result.pt"}
    path.write_text(json.dumps(results))
    one, other = digest(tmp_path).jobs
    assert (one.logged[0].name, one.logged[0].first, one.logged[0].last) == ("recall@10", 0.01, 0.4)
    assert other.result == "<Model>"
    assert "recall@10 0.01 → 0.4 (baseline 0.2)" in summary_text(tmp_path)


def test_a_job_that_logs_and_returns_nothing_is_told_by_its_last_line(tmp_path: Path) -> None:
    run_dir = synthetic.record(tmp_path, {name: Plan(20, 0.01, 0.01, metrics=()) for name in "ab"})
    results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
    results["jobs"]["a"]["result"], results["jobs"]["b"]["result"] = None, 0.5
    (run_dir / "results.json").write_text(json.dumps(results), encoding="utf-8")
    for name in "ab":
        (run_dir / "jobs" / name).mkdir(parents=True)
        (run_dir / "jobs" / name / "log.txt").write_bytes(
            f"epoch 2: loss 0.25, accuracy 0.9 ({name})\n\x1b[32m 80%|████  | 8/10 [00:01, 7.1it/s]\r"
            "100%|█████| 10/10 [00:01, 7.1it/s]\n\n".encode()
        )
    text = summary_text(run_dir)
    assert "epoch 2: loss 0.25, accuracy 0.9 (a)" in text
    assert "result 0.5" in text
    assert "(b)" not in text, "what it returned says more"
    assert "it/s" not in text
    assert "epoch 2: loss 0.25, accuracy 0.9 (a)" in build_report(run_dir).read_text(encoding="utf-8")


def test_no_run_no_summary(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        summary_text(tmp_path)


def test_numbers_as_people_read_them() -> None:
    assert [seconds_text(s) for s in (0, 2e-5, 0.0123, 4.256, 59.96, 102, 11100, 200_000)] == [
        "0.0 ms", "20 µs", "12.3 ms", "4.26 s", "1 min 00 s", "1 min 42 s", "3 h 05 min", "2 days 7 h",
    ]  # fmt: skip
    assert seconds_text(-3) == "-3.00 s"
    assert [clock_text(s) for s in (-1, 42, 727, 11_100)] == ["0:00", "0:42", "12:07", "3:05:00"]
    assert [bytes_text(b) for b in (12, 4e6, 2.5e13)] == ["12 B", "4 MB", "25 TB"]
    assert [value_text(v) for v in (0.0, 0.98765, 12345.6, 3e-7, float("nan"))] == [
        "0", "0.9877", "12346", "3.00e-07", "nan",
    ]  # fmt: skip
    assert listing_text(["a"]) == "a"
    assert listing_text(list("abcdef")) == "a, b, c and 3 more"
