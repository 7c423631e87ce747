"""A plan says what follows from a profile, and its file is checked before it is used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from motet.cli import plan as plan_command
from motet.cli import run
from motet.errors import UsageError
from motet.schedule.alternatives import LinkSpec, parse_link
from motet.schedule.costs import Cost
from motet.schedule.order import Order
from motet.schedule.plan import Profile, make_plan, plan_text, saved_order, saved_prediction, saved_profile

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
    for profile in (PROFILE, THREE):
        assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile


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
    description = run.describe(run.parse(words), words)
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


THREE = Profile(
    costs={name: Cost(0.1, 0.001, 1000) for name in "abc"},
    expected_turns=dict.fromkeys("abc", 200),
    num_workers=2,
    state_bytes=dict.fromkeys("abc", 1_200_000_000),
    device="cuda",
)


def test_idle_state_that_moves_is_reckoned_with() -> None:
    assert make_plan(THREE).offload is None
    assert make_plan(THREE).to_json()["offload"] is None
    plan = make_plan(THREE, host_link=12e9)  # 0.1 s out and 0.1 s in for every turn of 0.1 s
    assert plan.offload is not None
    resident = make_plan(THREE).alternatives.motet.total_seconds
    assert plan.offload.resident_seconds == pytest.approx(resident)
    assert plan.alternatives.motet.total_seconds == pytest.approx(resident + plan.offload.lost_seconds)
    assert plan.offload.lost_fraction == pytest.approx(1.0, abs=0.02)
    assert plan.offload.state_wait_seconds == pytest.approx(plan.offload.lost_seconds, abs=0.01)
    assert plan.offload.elsewhere[0] == (3e9, pytest.approx(7.0, rel=0.05))
    assert plan.offload.elsewhere[-2:] == ((24e9, pytest.approx(0, abs=0.01)), (48e9, pytest.approx(0, abs=0.01)))
    report = plan.to_json()["offload"]
    assert report["lost_seconds"] == plan.offload.lost_seconds
    assert report["on_other_links"][0]["host_link_bytes_per_second"] == 3e9
    text = plan_text(plan)
    assert "with --offload idle over 12 GB/s to the host: 60.1 s are lost against all resident, 100.2%" in text
    assert "a turn moves 1.2 GB out" in text
    assert "on other links: 3 GB/s 700.2%, 6 GB/s 300.2%, 24 GB/s 0.3%" in text
    assert "on the CPU" not in text
    assert "on the CPU, where these turns were measured, it moves nothing" in plan_text(
        make_plan(replace(THREE, device="cpu"), host_link=12e9)
    )


def test_with_two_jobs_nothing_rests() -> None:
    two = replace(PROFILE, state_bytes=dict.fromkeys(PROFILE.costs, 10**9))
    plan = make_plan(two, host_link=1e6)
    assert plan.offload is not None
    assert plan.offload.lost_seconds == pytest.approx(0)
    assert "fewer than 3 jobs" in plan_text(plan)


def test_the_command_says_what_offloading_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(make_plan(THREE).to_json()))
    assert plan_command.main(["--profile", str(path), "--offload", "idle", "--host-link", "6GB/s", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["offload"]
    assert report["host_link_bytes_per_second"] == 6e9
    assert report["lost_fraction"] > 2
    assert plan_command.main(["--profile", str(path), "--offload", "idle"]) == 0
    assert "over 12 GB/s to the host" in capsys.readouterr().out
    assert plan_command.main(["--profile", str(path)]) == 0
    assert "offload" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--host-link=12GB/s"], "goes with --offload idle"), (["--offload=idle", "--host-link=fast"], "cannot be read")],
)
def test_a_link_to_the_host_is_checked(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_command.parse(["--profile", "x", *words])


def test_a_plan_without_bytes_cannot_say_what_offloading_costs(tmp_path: Path) -> None:
    saved_earlier = saved(tmp_path / "plan.json")
    with pytest.raises(UsageError, match="does not say"):
        make_plan(saved_profile(saved_earlier), host_link=12e9)


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
    assert PROFILE.elsewhere(LinkSpec(rate), None).costs["conv"].sync_seconds == pytest.approx(40_000 / rate)


def test_one_worker_alone_knows_no_link() -> None:
    alone = Profile({"a": Cost(1, 0, 10)}, {"a": None}, 1)
    with pytest.raises(UsageError, match="--link"):
        alone.elsewhere(None, 2)
    assert alone.elsewhere(LinkSpec(10.0), 2).costs["a"].sync_seconds == 1.0


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
