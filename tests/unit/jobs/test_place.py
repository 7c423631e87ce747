"""A job's folder and environment, and the seed of a run: what may be given, and what is said of the rest."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from motet.errors import UsageError
from motet.jobs import Job, JobSpec, found_from, in_cwd, load_jobs_file
from motet.jobs.surroundings import JobSurroundings, seed_generators


def specs(folder: Path, text: str) -> list[JobSpec]:
    (folder / "train.py").write_text("")
    (folder / "jobs.yaml").write_text(text)
    return load_jobs_file(folder / "jobs.yaml")


def test_cwd_and_env_of_a_jobs_file(tmp_path: Path) -> None:
    first, second = specs(
        tmp_path,
        "jobs:\n"
        "  a: {script: train.py, cwd: 'runs/{name}', env: {PLACE: '{job_dir}/x', NUM: 1e-3}}\n"
        "  b: {script: train.py, cwd: '{job_dir}'}\n",
    )
    assert first.cwd == str(tmp_path / "runs" / "{name}")
    assert first.env == {"PLACE": "{job_dir}/x", "NUM": "1e-3"}
    assert JobSpec.from_json(first.to_json()) == first
    filled = first.filled(tmp_path / "run")
    assert filled.cwd == str(tmp_path / "runs" / "a")
    assert filled.env == {"PLACE": str(tmp_path / "run" / "x"), "NUM": "1e-3"}
    assert second.filled(tmp_path / "run").cwd == str(tmp_path / "run")
    assert filled.job().cwd == filled.cwd


def test_a_sweep_has_them_too(tmp_path: Path) -> None:
    text = "sweep: {script: train.py, args: {lr: [1, 2]}, cwd: 'runs/{name}', env: {A: b}}"
    assert [(spec.cwd, spec.env) for spec in specs(tmp_path, text)] == [
        (str(tmp_path / "runs" / "{name}"), {"A": "b"})
    ] * 2


def test_the_commands_cwd_is_for_jobs_that_have_none(tmp_path: Path) -> None:
    both = specs(tmp_path, "jobs:\n  a: {script: train.py, cwd: here}\n  b: {script: train.py}\n")
    assert [spec.cwd for spec in in_cwd(both, "{job_dir}")] == [str(tmp_path / "here"), "{job_dir}"]


def test_home_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert found_from("~/x", "/elsewhere", "here") == str(tmp_path / "x")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("cwd: 7", "cwd takes a folder"),
        ("cwd:", "cwd takes a folder"),
        ("cwd: ['a']", "cwd takes a folder"),
        ("cwd: '{jobdir}'", r"there is no \{jobdir\}"),
        ("cwd: 'x/{job_dir}'", "can only stand first"),
        ("cwd: train.py/x", "train.py is a file"),
        ("cwd: 'train.py/{name}'", "train.py is a file"),
        ("env: 7", "env must be a mapping"),
        ("env: {A: true}", "put it in quotes"),
        ("env: {A: }", "put it in quotes"),
        ("env: {A: [1]}", "put it in quotes"),
        ("env: {'A=B': c}", "cannot name an environment variable"),
        ("env: {RANK: 1}", "env cannot set RANK: it is the workers'"),
        ("env: {TORCHELASTIC_RUN_ID: x}", "env cannot set TORCHELASTIC_RUN_ID"),
    ],
)
def test_one_message_with_file_and_line(tmp_path: Path, entry: str, message: str) -> None:
    with pytest.raises(UsageError, match=rf"jobs.yaml:\d: .*{message}"):
        specs(tmp_path, f"jobs:\n  a:\n    script: train.py\n    {entry}\n")


@pytest.fixture
def as_before() -> Any:
    directory, environment = os.getcwd(), dict(os.environ)
    states = torch.get_rng_state(), numpy.random.get_state(), random.getstate()
    yield
    torch.set_rng_state(states[0])
    numpy.random.set_state(states[1])
    random.setstate(states[2])
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.usefixtures("as_before")
def test_a_job_finds_its_folder_and_environment(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    JobSurroundings(0, None).begin(Job("j", print, cwd=str(place), env={"PLACE": "here"}))
    assert (os.getcwd(), os.environ["PLACE"]) == (str(place), "here")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"job 'k' cannot work in its folder .*file/x: .*; give it another cwd"):
        JobSurroundings(0, None).begin(Job("k", print, cwd=str(tmp_path / "file" / "x")))


def drawn() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(numpy.random.rand()), random.random()


@pytest.mark.usefixtures("as_before")
def test_numbers_follow_from_seed_job_and_worker_and_differ_in_each() -> None:
    found = []
    for seed, job, worker in ((1, "a", 0), (1, "a", 1), (1, "b", 0), (2, "a", 0), (1, "a", 0)):
        seed_generators(seed, job, worker)
        found.append(drawn())
    assert found[0] == found[-1]
    for numbers in zip(*found[:-1], strict=True):
        assert len(set(numbers)) == 4
    JobSurroundings(0, None).begin(Job("a", print))
    before = drawn()
    seed_generators(1, "a", 0)
    drawn()
    assert drawn() == before, "without a seed nothing is drawn or set"
