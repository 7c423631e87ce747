"""The same command again: a run that is there already goes on, another one is refused, ``--fresh`` begins beside it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.distributed.command import FAULTY, Place

from motet.checkpoints.resuming import begin_or_go_on, difference, options_of_start
from motet.config import RunConfig
from motet.errors import UsageError
from motet.run_dir import RunDir
from motet.testing import Gang

TWO = "--nproc-per-node=2"
LONG = {"steps": 150, "pause": 0.01, "every": 1000}
RUN = ("run", TWO, "jobs.yaml", "--run-dir=out")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.close()


def stop(place: Place, process: subprocess.Popen[str], file: str = "ready") -> None:
    """Stop a run as soon as three steps are done."""
    place.wait_until(file, process)
    process.send_signal(signal.SIGTERM)
    status, out, err = place.ended(process)
    assert status == 3, (out, err)
    (place.path / file).unlink()


def test_the_same_command_starts_and_goes_on(place: Place, gangs: Callable[[int], Gang]) -> None:
    place.jobs(a=LONG | {"tell": "ready"}, b=LONG | {"seed": 2})
    stop(place, place.start(*RUN))
    stopped_at = place.jobs_of(field="turns")
    status, out, err = place.motet(*RUN)
    assert status == 0, (out, err)
    assert "this run has begun before, and goes on" in err
    assert f"[a] begins after {stopped_at['a']}" in out
    for name, seed in {"a": 1, "b": 2}.items():
        alone = gangs(2).run(FAULTY, **{**LONG, "seed": seed, "pause": 0.0})[0]
        assert place.jobs_of(field="result")[name] == alone, "as alone, without a stop"
    finished = place.results()
    status, out, err = place.motet(*RUN)
    assert (status, "nothing to do" in err) == (0, True), (out, err)
    assert place.results() == finished


def test_another_run_is_refused_and_fresh_begins_beside_it(place: Place) -> None:
    place.jobs(a={"steps": 2})
    assert place.motet(*RUN)[0] == 0
    first = place.results()
    place.jobs(a={"steps": 3})
    status, _, err = place.motet(*RUN)
    assert (status, 'its job \'a\' has arguments {"steps": 2}, and here {"steps": 3}' in err) == (2, True), err
    assert "--fresh" in err
    for number in (2, 3):
        status, _, err = place.motet(*RUN, "--fresh")
        assert status == 0, err
        assert place.jobs_of(f"out-{number}", "turns") == {"a": 3}
    assert place.results() == first


def test_what_this_start_says_counts_but_not_what_makes_the_run(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path / "out", HERE | RunConfig(seed=1, at_once=2, stop_after_seconds=60.0).to_json())
    options = options_of_start(run_dir, HERE | RunConfig(seed=2, at_once=1, timeout_seconds=60.0).to_json())
    assert options == RunConfig(seed=1, at_once=1, timeout_seconds=60.0)


def test_workers_of_torchrun_go_on_alike(place: Place) -> None:
    place.jobs(a=LONG | {"tell": "ready"})
    words = ["-m", "torch.distributed.run", "--standalone", TWO, "-m", "motet", "run", "jobs.yaml", "--run-dir=out"]

    def start() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, *words], cwd=place.path, env=place.environment, stdout=pipe, stderr=pipe, text=True
        )

    process = start()
    place.wait_until("ready", process)
    process.send_signal(signal.SIGTERM)
    place.ended(process)
    (place.path / "ready").unlink()
    turns = place.jobs_of(field="turns")["a"]
    assert 0 < turns < 150
    status, out, err = place.ended(start())
    assert status == 0, (out, err)
    assert f"begins after {turns}" in out
    assert place.jobs_of() == {"a": "finished"}


PROGRAM = """
import functools, sys
import motet
from tests.distributed.jobs_faulty import loop

if __name__ == "__main__":
    words = {"steps": 150, "pause": 0.01, "every": 1000, "tell": "ready"}
    jobs = {name: functools.partial(loop, **words) for name in sys.argv[1:]}
    results = motet.launch(jobs, run_dir="out", resume=True)
    print("result", results["a"].result["weights"])
"""


def test_a_program_goes_on_where_it_says_so(place: Place, gangs: Callable[[int], Gang]) -> None:
    (place.path / "program.py").write_text(PROGRAM)

    def start(*names: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [sys.executable, "program.py", *names],
            cwd=place.path,
            env=place.environment,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )

    process = start("a")
    place.wait_until("ready", process)
    process.send_signal(signal.SIGUSR1)
    status, out, err = place.ended(process)
    assert (status, "stopped by SIGUSR1" in err) == (-signal.SIGINT, True), (out, err)
    assert place.jobs_of() == {"a": "stopped"}, (out, err)
    status, out, err = place.ended(start("a"))
    assert status == 0, (out, err)
    alone = gangs(1).run(FAULTY, **{**LONG, "pause": 0.0})[0]
    assert f"result {alone['weights']}" in out
    status, out, err = place.ended(start("a", "b"))
    assert (status, "holds another run: it has the jobs a" in err) == (1, True), (out, err)


JOB = {"name": "a", "kind": "script", "target": "/t.py", "arguments": ["--lr=1"], "paths": [], "where": "jobs.yaml:2"}
HERE = {"jobs": [JOB], "directory": "/work", "seed": 7}


@pytest.mark.parametrize(
    ("changed", "seed", "message"),
    [
        ({}, None, None),
        ({"jobs": [JOB | {"where": "jobs.yaml:9"}]}, None, None),
        ({"jobs": [JOB | {"arguments": ["--lr=2"]}]}, None, "--lr=2"),
        ({"jobs": [JOB | {"env": {"A": "b"}}]}, None, "env"),
        ({"jobs": [JOB | {"name": "b"}]}, None, "it has the jobs a, and this command b"),
        ({"directory": "/home"}, None, "/home"),
        ({"seed": 8}, None, None),
        ({"seed": 8}, 8, "its seed is 7, and here 8"),
    ],
)
def test_which_runs_are_the_same(changed: dict[str, object], seed: int | None, message: str | None) -> None:
    found = difference(HERE, HERE | changed, seed)
    assert found is None if message is None else message in str(found)


def test_functions_of_a_program_are_compared_by_name() -> None:
    one, other = ({"name": "a", "kind": "python", "target": f"<function at {n}>", "cwd": None} for n in "12")
    assert difference(HERE | {"jobs": [one]}, HERE | {"jobs": [other]}) is None


def test_what_is_left_of_a_run_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{ torn")
    with pytest.raises(UsageError, match="or its remains"):
        begin_or_go_on(tmp_path, HERE)
    (tmp_path / "run.json").write_text(json.dumps({"format": 1, **HERE}))
    assert begin_or_go_on(tmp_path, HERE)[1]
    fresh, goes_on = begin_or_go_on(tmp_path, HERE, fresh=True)
    assert (fresh.path.name, goes_on) == (f"{tmp_path.name}-2", False)
    assert RunDir.open(fresh.path).description["seed"] == 7
