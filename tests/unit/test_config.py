"""`RunConfig`: one place for every option, one message for what it cannot be, one format in ``run.json``."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import time
import typing
from pathlib import Path
from typing import Any

import pytest

from motet.cli.config_options import add_config_options, given_options
from motet.cli.run import describe, parse
from motet.config import LaunchOptions, RunConfig, RunOptions
from motet.errors import CheckpointError, UsageError
from motet.jobs import JobSpec
from motet.launcher.launch import launch
from motet.running import run

SAMPLES = Path(__file__).parent / "run_json"
ALL = {
    "order": "round-robin",
    "house": "together",
    "strict_order": True,
    "sync": "aggregate",
    "aggregators": [0, 2],
    "compress": "bf16",
    "at_once": "auto",
    "offload": "idle",
    "share_frozen": "off",
    "buffers": "blocking",
    "job_cwd": "runs/{name}",
    "seed": 3,
    "verbose": True,
    "quiet": False,
    "trackers": ["wandb"],
    "metric": "loss",
    "mode": "min",
    "stop_after_seconds": 60.0,
    "timeout_seconds": 90,
    "only": ["a"],
    "on_nan": "raise",
    "on_same_file": "error",
    "max_job_failures": 0,
}


def test_every_option_is_one_of_launch_and_of_the_same_type() -> None:
    assert typing.get_type_hints(RunConfig) == typing.get_type_hints(LaunchOptions)
    assert ALL.keys() == {field.name for field in dataclasses.fields(RunConfig)}


def test_run_and_launch_take_what_the_command_takes() -> None:
    for function, options in ((run, RunOptions), (launch, LaunchOptions)):
        taken = inspect.signature(function, eval_str=True).parameters["options"].annotation
        assert typing.get_args(taken) == (options,)
    of_the_command = {field.name for field in dataclasses.fields(RunConfig) if "run" in field.metadata["of"]}
    assert of_the_command <= LaunchOptions.__annotations__.keys()
    not_for_run = of_the_command - RunOptions.__annotations__.keys()
    assert not_for_run == {"job_cwd", "quiet", "trackers", "metric", "mode"}, "these are of those who start workers"


def test_the_file_gives_back_what_was_asked_for() -> None:
    config = RunConfig(**ALL)  # type: ignore[arg-type]
    again = RunConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again.stop_after_seconds == pytest.approx(60.0, abs=5.0)
    assert dataclasses.replace(again, stop_after_seconds=60.0) == config
    assert RunConfig.from_json(RunConfig().to_json()) == RunConfig()


def test_the_file_names_every_option() -> None:
    """What a reader of ``run.json`` finds: a change of it takes another format."""
    assert RunConfig().to_json() == {
        "order": None,
        "house": "together",
        "strict_order": False,
        "sync": "all-reduce",
        "aggregators": None,
        "compress": None,
        "at_once": None,
        "offload": "nothing",
        "share_frozen": "on",
        "buffers": "overlapped",
        "job_cwd": None,
        "seed": None,
        "verbose": False,
        "quiet": False,
        "trackers": [],
        "metric": None,
        "mode": None,
        "stop_at_unix_time": None,
        "timeout_seconds": 1800.0,
        "only": None,
        "on_nan": "ignore",
        "on_same_file": "warn",
        "max_job_failures": 1,
    }


def test_a_stop_is_a_moment_in_the_file() -> None:
    content = RunConfig(stop_after_seconds=60.0).to_json()
    assert content["stop_at_unix_time"] == pytest.approx(time.time() + 60.0, abs=5.0)
    content["stop_at_unix_time"] = time.time() - 10.0
    late = RunConfig.from_json(content).stop_after_seconds
    assert late is not None
    assert 0.0 < late < 0.1, "it stops at once, and does not begin anew"


def test_runs_of_0_1_are_read() -> None:
    command = RunConfig.from_json(json.loads((SAMPLES / "command-0.1.json").read_text()))
    assert command.stop_after_seconds is not None
    assert dataclasses.replace(command, stop_after_seconds=None) == RunConfig(
        order=("a", "b"),
        sync="aggregate",
        aggregators=(0, 1),
        compress="bf16",
        at_once=2,
        offload="idle",
        seed=11,
        verbose=True,
        timeout_seconds=1800.0,
        on_nan="stop-job",
        on_same_file="error",
        max_job_failures=2,
    )
    launched = RunConfig.from_json(json.loads((SAMPLES / "launch-0.1.json").read_text()))
    assert launched == RunConfig(at_once="auto", buffers="blocking", seed=7)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "x"), ("seed", -1), ("at_once", 0), ("order", 3), ("offload", None), ("on_nan", "explode"),
        ("timeout_seconds", float("nan")), ("timeout_seconds", -5), ("stop_at_unix_time", "soon"),
        ("max_job_failures", True), ("trackers", "wandb"), ("aggregators", [0.5]), ("verbose", 1),
    ],
)  # fmt: skip
def test_a_damaged_file_gets_one_message(key: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"^out/run.json is damaged: {key}"):
        RunConfig.from_json({**RunConfig(sync="aggregate").to_json(), key: value}, "out/run.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sync": "ring"}, "sync (--sync) takes all-reduce or aggregate; it was given 'ring'"),
        ({"offload": "idel"}, "offload (--offload) takes nothing or idle; it was given 'idel'; did you mean 'idle'?"),
        ({"on_nan": 1}, "on_nan (--on-nan) takes ignore, stop-job or raise; it was given 1"),
        ({"at_once": 0}, "at_once (--at-once) takes a number of jobs, at least 1, or auto; it was given 0"),
        ({"at_once": True}, "at_once (--at-once) takes"),
        ({"seed": 2**53}, "seed (--seed) takes a whole number from 0 to 9007199254740991; it was given"),
        ({"seed": -1}, "seed (--seed) takes"),
        ({"seed": 1.5}, "seed (--seed) takes"),
        ({"seed": "1"}, "seed (--seed) takes"),
        ({"timeout_seconds": 0}, "timeout_seconds (--timeout) takes a time above 0"),
        ({"stop_after_seconds": "soon"}, "stop_after_seconds (--stop-after) takes a time above 0"),
        ({"max_job_failures": -1}, "max_job_failures (--max-job-failures) takes a whole number from 0"),
        ({"trackers": "wandb"}, "trackers (--tracker) takes names"),
        ({"aggregators": [0]}, "aggregators go with"),
        ({"sync": "aggregate", "aggregators": ["a"]}, "numbers of workers, as in 0,2, or dedicated"),
        ({"verbose": True, "quiet": True}, "contradict each other"),
        ({"buffers": None}, "buffers (--buffers) takes overlapped or blocking; it was given None"),
    ],
)
def test_what_no_run_could_be_asked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        RunConfig(**options)
    assert str(error.value).startswith(message) or message in str(error.value)


@pytest.mark.parametrize("function", [run, launch])
def test_an_unknown_keyword_is_refused_with_the_nearest_right_one(function: Any) -> None:
    with pytest.raises(TypeError, match=r"motet\.(run|launch)\(\) got .* 'ofload'; did you mean 'offload'\?"):
        function({"a": print}, ofload="idle")
    with pytest.raises(UsageError, match="offload"):
        function({"a": print}, offload="all")


def test_options_go_over_those_of_a_config() -> None:
    base = RunConfig(seed=1, at_once=2)
    assert RunConfig.of({"seed": 5}, "f", base, known=RunOptions) == RunConfig(seed=5, at_once=2)


WORDS = [
    "--strict-order",
    *("--order", "a,b", "--sync=aggregate", "--aggregators=0,2", "--compress=bf16", "--at-once=2", "--offload=idle"),
    *("--buffers=blocking", "--job-cwd=runs/{name}", "--seed=3", "--verbose", "--tracker=wandb", "--tracker=mlflow"),
    *("--metric=loss", "--mode=min", "--stop-after=1h30m", "--timeout=90", "--on-nan=raise", "--on-same-file=error"),
    *("--share-frozen=off", "--max-job-failures=0"),
]


def test_the_commands_options_are_the_configs() -> None:
    config: RunConfig = parse(["jobs.yaml", *WORDS]).config
    assert config == RunConfig(
        **{name: value for name, value in ALL.items() if name not in ("only", "order", "at_once", "trackers")}  # type: ignore[arg-type]
        | {"order": "a,b", "at_once": 2, "stop_after_seconds": 5400.0, "trackers": ("wandb", "mlflow")}
    )


def test_what_the_command_is_given_stands_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.yaml").write_text("jobs:\n  a: {call: 'time:time'}\n  b: {call: 'time:monotonic'}\n")
    words = ["jobs.yaml", *(word for word in WORDS if "--tracker" not in word)]
    description = describe(parse(words), words)
    found = RunConfig.from_json(description)
    assert found.order == ("a", "b")
    assert (found.metric, found.mode, found.buffers, found.timeout_seconds) == ("loss", "min", "blocking", 90.0)
    assert isinstance(RunConfig.from_json(describe(parse(["jobs.yaml"]), [])).seed, int)


def test_resume_takes_what_may_change() -> None:
    parser = argparse.ArgumentParser()
    add_config_options(parser, "resume")
    assert given_options(parser.parse_args([]), "resume") == {}
    given = given_options(parser.parse_args(["--only=a", "--only=b", "--timeout=2m", "--quiet"]), "resume")
    assert given == {"only": ["a", "b"], "timeout_seconds": 120.0, "quiet": True}
    with pytest.raises(SystemExit):
        parser.parse_args(["--seed=1"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--timeout=soon", "--timeout takes a time above 0 such as 90s"),
        ("--at-once=two", "--at-once takes a number of jobs, at least 1, or auto; it was given 'two'"),
        ("--aggregators=x", "--aggregators takes numbers of workers, as in 0,2, or dedicated; it was given 'x'"),
        ("--max-job-failures=-1", "--max-job-failures takes"),
        ("--seed=x", "--seed takes"),
    ],
)
def test_wrong_words_are_named_as_they_were_given(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        parse(["jobs.yaml", word])


class Started(Exception):
    """Workers would have been started with these arguments."""


def test_launch_keeps_every_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(options: object, arguments: list[str], **_: object) -> None:
        raise Started(arguments)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("motet.launcher.workers.run_workers", start)
    jobs = {"a": JobSpec("a", "call", "time:time", {}), "b": time.monotonic}
    options = ALL | {"order": "a,b", "only": None, "trackers": ["csv"]}
    with pytest.raises(Started) as started:
        launch(jobs, run_dir="out", config=RunConfig(seed=1), **options)
    description = json.loads((tmp_path / "out" / "run.json").read_text())
    assert {job["name"]: job["cwd"] for job in description["jobs"]} == dict.fromkeys(
        "ab", str(tmp_path / "runs/{name}")
    )
    given = next(word for word in started.value.args[0] if word.startswith("--config="))
    for content in (description, json.loads(given.removeprefix("--config="))):
        found = RunConfig.from_json(content)
        assert found.stop_after_seconds == pytest.approx(60.0, abs=10.0)
        assert dataclasses.replace(found, stop_after_seconds=60.0) == RunConfig(**options | {"order": ("a", "b")})
