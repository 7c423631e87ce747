"""A plan says what follows from a profile, and its file is checked before it is used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from motet import cli_run
from motet.alternatives import Link, parse_link
from motet.errors import UsageError
from motet.order import Cost, Order
from motet.plan import Profile, make_plan, plan_text, saved_order, saved_prediction, saved_profile

MEGABYTE = 10**6
PROFILE = Profile(
    costs={"embedding": Cost(0.02, 0.2, 8 * MEGABYTE), "conv": Cost(0.02, 0.002, 40_000)},
    expected_turns={"embedding": 100, "conv": 1000},
    num_workers=2,
    buckets={"embedding": ((0.6, 0.25), (1.0, 0.75))},
    transfer_cpu_fraction=0.1,
)


def saved(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**make_plan(PROFILE).to_json(), **changes}))
    return path


def test_a_profile_comes_back_from_its_json_form() -> None:
    assert Profile.from_json(json.loads(json.dumps(PROFILE.to_json()))) == PROFILE


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "plan.json")
    assert saved_profile(path) == PROFILE
    assert saved_order(path, ["conv", "embedding"]) == make_plan(PROFILE).order
    assert saved_prediction(path) == make_plan(PROFILE).alternatives.motet.total_seconds


def test_nothing_is_predicted_for_jobs_of_unknown_length(tmp_path: Path) -> None:
    plan = make_plan(replace(PROFILE, expected_turns={"embedding": 100, "conv": None}))
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    assert saved_prediction(tmp_path / "plan.json") is None


def test_a_run_by_a_plan_says_what_was_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    (tmp_path / "jobs.yaml").write_text("jobs: {conv: {script: train.py}, embedding: {script: train.py}}")
    path = saved(tmp_path / "plan.json")
    words = ["jobs.yaml", "--plan", str(path)]
    description = cli_run.describe(cli_run.parse(words), words)
    assert description["prediction"] == {"wall_seconds": saved_prediction(path)}
    assert description["order"] == list(make_plan(PROFILE).order.turns)


def test_unequal_jobs_get_unequal_turns_and_are_advised() -> None:
    plan = make_plan(PROFILE)
    assert plan.order.weights["conv"] == 10 * plan.order.weights["embedding"]
    assert plan.advice.startswith("Use Motet")
    assert [plan.binds(name) for name in PROFILE.costs] == ["network", "compute"]
    text = plan_text(plan)
    assert plan.advice in text
    assert "1000?" not in text
    assert "one model per worker" not in text, "the data may not move"


def test_data_that_may_be_everywhere_is_another_way() -> None:
    plan = make_plan(PROFILE, data_everywhere=True)
    assert plan.alternatives.one_model_per_worker_seconds == pytest.approx(2 * 1000 * 0.02)
    assert "one model per worker" in plan_text(plan)


def test_the_user_s_order_is_predicted() -> None:
    slower = make_plan(PROFILE, order=Order(("embedding", "conv")))
    assert slower.alternatives.motet.total_seconds > 1.4 * make_plan(PROFILE).alternatives.motet.total_seconds


def test_turns_that_nobody_said_are_marked() -> None:
    plan = make_plan(Profile(PROFILE.costs, {"embedding": 100, "conv": None}, 2))
    assert "?" in plan_text(plan)
    assert plan.to_json()["jobs"]["conv"]["turns"] is None
    assert plan.to_json()["jobs"]["conv"]["reckoned_turns"] == plan.turns["conv"]


def test_what_if_on_another_link() -> None:
    there = PROFILE.elsewhere(parse_link("10gbit"), 64)
    assert there.num_workers == 64
    assert there.costs["embedding"].sync_seconds == pytest.approx(2 * 63 / 64 * 8 * MEGABYTE / 1.25e9)
    assert there.costs["embedding"].compute_seconds == PROFILE.costs["embedding"].compute_seconds


def test_what_if_with_more_workers_on_the_present_link() -> None:
    rate = 8_040_000 / 0.202  # bytes a second that the profile saw, at 2 workers
    there = PROFILE.elsewhere(None, 4)
    assert there.costs["embedding"].sync_seconds == pytest.approx(2 * 3 / 4 * 8 * MEGABYTE / rate)
    assert PROFILE.elsewhere(None, 2) is PROFILE
    assert PROFILE.elsewhere(Link(rate), None).costs["conv"].sync_seconds == pytest.approx(40_000 / rate)


def test_one_worker_alone_knows_no_link() -> None:
    alone = Profile({"a": Cost(1, 0, 10)}, {"a": None}, 1)
    with pytest.raises(UsageError, match="--link"):
        alone.elsewhere(None, 2)
    assert alone.elsewhere(Link(10.0), 2).costs["a"].sync_seconds == 1.0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["embedding", "cnv"], "'conv' that is not among the jobs; did you mean 'cnv'"),
        (["embedding", "conv", "other"], "knows no job 'other'"),
        (["embedding"], "'conv' that is not among the jobs"),
    ],
)
def test_a_plan_for_other_jobs_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        saved_order(saved(tmp_path / "plan.json"), names)


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        saved_order(tmp_path / "absent.json", ["a"])
    (tmp_path / "text").write_text("jobs:")
    with pytest.raises(UsageError, match="not a plan"):
        saved_profile(tmp_path / "text")
    (tmp_path / "list").write_text("[1]")
    with pytest.raises(UsageError, match="format"):
        saved_profile(tmp_path / "list")
    with pytest.raises(UsageError, match="format 1"):
        saved_profile(saved(tmp_path / "later", format=2))
    with pytest.raises(UsageError, match="damaged"):
        saved_order(saved(tmp_path / "torn", jobs={"conv": {}}), ["conv"])
    with pytest.raises(UsageError, match="unknown job 'x'"):
        saved_order(saved(tmp_path / "order", order=["embedding", "conv", "x"]), ["embedding", "conv"])
