"""The demo's models learn, by ordinary means: in a group of one here, on two workers under plain torchrun."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.distributed as dist

import motet.demo
from motet.demo import images, language, pairs

TINY: dict[ModuleType, dict[str, Any]] = {
    images: {"num_epochs": 3, "width": 8},
    language: {"num_steps": 100, "num_layers": 1, "width": 64, "length": 64, "num_windows": 32, "learning_rate": 5e-3},
    pairs: {"num_steps": 80, "width": 32, "batch_size": 512, "learning_rate": 0.03},
}


def name_of(module: object) -> str | None:
    return module.__name__.rpartition(".")[2] if isinstance(module, ModuleType) else None


each_module = pytest.mark.parametrize("module", TINY, ids=name_of)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The environment that torchrun gives the only worker of a group; one thread, as it sets."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    num_threads, generator = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
    torch.set_rng_state(generator)
    if dist.is_initialized():
        dist.destroy_process_group()


@each_module
def test_learns_and_says_so(module: ModuleType, worker: None, capsys: pytest.CaptureFixture[str]) -> None:
    result = module.train(**TINY[module])
    assert not dist.is_initialized()
    before, after, baseline = result["before"], result["after"], result["baseline"]
    if module is language:
        assert after < baseline < before
        assert before == pytest.approx(8, abs=0.3)
    else:
        assert before < 0.2
        assert after > 2 * baseline
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("before training: ")
    assert lines[-1].startswith("after training: ")
    assert 3 <= len(lines) <= 10
    assert result["metric"] in lines[-1]


@each_module
def test_ends_with_the_same_bits_each_time(module: ModuleType, worker: None, tmp_path: Path) -> None:
    short = {**TINY[module], **({"num_epochs": 1} if module is images else {"num_steps": 3})}
    for run, seed in (("first", 0), ("again", 0), ("other", 1)):
        module.train(**short, seed=seed, save_to=str(tmp_path / run))
    first, again, other = (torch.load(tmp_path / run) for run in ("first", "again", "other"))
    assert all(torch.equal(first["model"][name], again["model"][name]) for name in first["model"])
    moments = list(first["optimizer"]["state"].values())
    for mine, theirs in zip(moments, again["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert moments
    assert not all(torch.equal(first["model"][name], other["model"][name]) for name in first["model"])


@each_module
@pytest.mark.slow
def test_runs_under_plain_torchrun(module: ModuleType, worker: None) -> None:
    settings = {**TINY[module], **({"num_epochs": 1} if module is images else {"num_steps": 2})}
    options = [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    alone = module.train(**settings)
    inherited = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    done = subprocess.run(
        [
            sys.executable,
            *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"],
            module.__name__,
            *options,
        ],
        env={**inherited, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("before training: ") for line in lines) == 1, "only worker 0 talks"
    # Two workers share the measuring, and come to what one finds.
    assert f"{alone['before']:.2f}" in lines[0]
    assert lines[-1].startswith("after training: ")


@each_module
def test_command_line_has_the_defaults_of_the_function(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = inspect.signature(module.train).parameters
    given: dict[str, Any] = {}
    monkeypatch.setattr(sys, "argv", ["demo"])
    monkeypatch.setattr(module, "train", lambda **settings: given.update(settings))
    module.main()
    assert given == {name: parameter.default for name, parameter in parameters.items()}


@each_module
def test_knows_nothing_of_motet(module: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name for name in imported if name.startswith("motet")} <= {"motet.demo.sources"}


def test_the_package_offers_the_three_functions_when_asked() -> None:
    assert motet.demo.digits is images.train
    assert motet.demo.byte_gpt is language.train
    assert motet.demo.recommender is pairs.train
    assert set(motet.demo.__all__) <= set(dir(motet.demo))
    with pytest.raises(AttributeError, match="chess"):
        _ = motet.demo.chess
    code = "import sys, motet.demo; sys.exit(any(name.startswith('motet.demo.') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_example_names_the_three_functions() -> None:
    from motet.jobs import load_jobs_file

    specs = load_jobs_file(Path(__file__).parents[3] / "examples" / "demo.yaml")
    assert [spec.name for spec in specs] == ["digits", "gpt", "recommender"]
    for spec in specs:
        assert isinstance(spec.arguments, dict)
        inspect.signature(spec.callable()).bind()
