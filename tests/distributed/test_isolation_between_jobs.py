"""Scripts that change what is global to a process do not disturb each other: each ends as it does alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from motet.testing import Gang

# Both scripts are copies of this one, in folders of their own, each with a helper.py of its own.
SCRIPT = Path(__file__).with_name("jobs_clashing_script.py")

ALONE, TOGETHER, DIFFERING = (f"tests.distributed.jobs_scripts:{name}" for name in ("alone", "together", "differing"))

HELPER = """
import torch
NAME, RATE, COUNT = {name!r}, {rate}, 0

def target(x):
    global COUNT
    COUNT += 1
    return x.sum(1, keepdim=True) * {factor}
"""


@pytest.fixture
def scripts(tmp_path: Path) -> dict[str, str]:
    for name, rate, factor in (("loud", 0.01, 2), ("quiet", 0.05, -1)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "train.py").write_text(SCRIPT.read_text())
        (folder / "helper.py").write_text(HELPER.format(name=name, rate=rate, factor=factor))
        (folder / "late_helper.py").write_text(f"NAME = 'late helper of {name}'")
    return {name: str(tmp_path / name / "train.py") for name in ("loud", "quiet")}


def arguments(name: str, out: Path, steps: int) -> list[str]:
    return ["--width", "20" if name == "loud" else "31", "--mode", name, "--steps", str(steps), "--out", str(out)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_scripts_with_clashing_globals(scripts: dict[str, str], tmp_path: Path, num_workers: int) -> None:
    steps = {"loud": 6, "quiet": 8}
    for name, path in scripts.items():
        with Gang(num_workers, joined=False) as gang:
            gang.run(ALONE, path, arguments(name, tmp_path / f"{name}-alone", steps[name]))
    for log in tmp_path.glob("*/log-*.txt"):
        log.unlink()
    with Gang(num_workers, joined=False) as gang:
        jobs = {
            name: (path, arguments(name, tmp_path / f"{name}-together", steps[name])) for name, path in scripts.items()
        }
        for worker in gang.run(TOGETHER, jobs):
            assert worker["status"] == {"loud": "finished", "quiet": "finished"}, worker["error"]
            assert worker["turns"] == steps
            assert worker["changed"] == []
        for name in scripts:
            for rank in range(num_workers):
                files = [str(tmp_path / f"{name}-{how}-{rank}") for how in ("alone", "together")]
                assert gang.run(DIFFERING, *files)[0] == []


def test_the_same_script_twice(scripts: dict[str, str], tmp_path: Path) -> None:
    path = scripts["quiet"]
    with Gang(2, joined=False) as gang:
        gang.run(ALONE, path, arguments("quiet", tmp_path / "alone", 5))
    for log in tmp_path.glob("*/log-*.txt"):
        log.unlink()
    with Gang(2, joined=False) as gang:
        names = ("one", "two")
        jobs = {name: (path, arguments("quiet", tmp_path / name, 5)) for name in names}
        worker = gang.run(TOGETHER, jobs)[0]
        assert worker["status"] == {"one": "finished", "two": "finished"}, worker["error"]
        for name in names:
            found = gang.run(DIFFERING, str(tmp_path / "alone-0"), str(tmp_path / f"{name}-0"))
            assert [place for place in found[0] if "log" not in place] == []  # they share a log file


def test_functions_that_change_globals(gangs: Callable[[int], Gang]) -> None:
    names = {"doubles": "jobs_plain:float64", "seeds": "jobs_plain:generators", "plain": "jobs_plain:plain"}
    gangs(2).run("tests.distributed.identity:must_equal_alone", names)
