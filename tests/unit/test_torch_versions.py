"""Every inner name of torch, Python and NumPy that Motet leans on is in a table, and is there.

A new torch is checked by this file alone: ``python -m pytest tests/unit/test_torch_versions.py``.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import motet
from motet import torch_versions
from motet.errors import UsageError
from motet.isolation import torch_flags
from motet.torch_names import NEEDED, NEEDED_WITH_CUDA, NEEDED_WITHOUT_CONTEXTS
from motet.torch_versions import FEATURES, NEWEST, OLDEST, found

SOURCE = Path(motet.__file__).parent
# What depends on packages that are optional, and asks for each of their names where it uses it.
OTHERS_INSIDE = ("integrations", "isolation/trackers.py", "isolation/frameworks.py")
# Documented after all: `os._exit`, and `_replace` of a named tuple. Read where it is written: `_sysconfigdata`, a
# module of Python's that demos read.
NO_SECRETS = {"_cython_", "_per_second", "_runtime", "_exit", "_replace", "_sysconfigdata", "_typeshed"}
OPTIONAL = {feature.path for feature in FEATURES}


def is_inner(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(OTHERS_INSIDE) and name not in ("torch_versions.py", "torch_names.py"):
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def own_names() -> set[str]:
    """Return what Motet itself defines."""
    found = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                found.add(node.attr)
    return found


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def inner_names(tree: ast.Module) -> set[str]:
    """Return the names that begin with an underscore: attributes, what is imported, and names that are written out."""
    found = set()
    pieces = {id(piece) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for piece in node.values}
    for node in ast.walk(tree):
        if id(node) in pieces:
            continue
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != "motet":
            found |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {part for alias in node.names for part in alias.name.split(".")}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value)
    return {name for name in found if is_inner(name)}


def parts(path: str) -> set[str]:
    return set(re.split("[.:(]", path.rstrip(")")))


def test_every_needed_name_is_there() -> None:
    lacking = torch_versions.missing()
    assert not lacking, f"torch {torch.__version__}, Python {sys.version.split()[0]}: {', '.join(lacking)}"


def test_a_name_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(DistributedDataParallel, "_sync_buffers")
    monkeypatch.delattr(torch._C._distributed_c10d, "_register_comm_hook")
    monkeypatch.setitem(sys.modules, "torch.distributed.algorithms.join", None)  # what cannot be imported
    monkeypatch.setattr(DistributedDataParallel, "_register_builtin_comm_hook", lambda self, kind: None)
    assert set(torch_versions.missing()) == {
        "torch.nn.parallel:DistributedDataParallel._register_builtin_comm_hook(comm_hook_type)",
        "torch.nn.parallel:DistributedDataParallel._sync_buffers",
        "torch.distributed.algorithms.join:Join.__init__",
        "torch.distributed.algorithms.join:Join.__enter__",
        "torch.distributed.algorithms.join:Join.__exit__",
        "torch._C._distributed_c10d:_register_comm_hook",
    }


@pytest.mark.parametrize("path", [path for paths in NEEDED.values() for path in paths])
def test_a_name_alike_is_not_taken_for_it(path: str) -> None:
    head, _, parameter = path.partition("(")
    assert not found(f"{head}_({parameter}" if parameter else f"{head}_")
    assert not parameter or not found(f"{head}(_{parameter}")


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.path)
def test_a_feature_is_there_since_it_says(feature: torch_versions.Feature) -> None:
    if feature.since == "any":
        assert feature.there
        return
    since = tuple(int(number) for number in feature.since.split("."))
    assert feature.there == ((torch_versions.torch_version() or ()) >= since)
    assert feature.without


def test_no_inner_name_is_used_that_is_in_no_table() -> None:
    every = [
        *OPTIONAL,
        *NEEDED_WITH_CUDA,
        *NEEDED_WITHOUT_CONTEXTS,
        *(path for paths in NEEDED.values() for path in paths),
    ]
    entered = {part for path in every for part in parts(path)} | own_names() | NO_SECRETS
    # Flags: a getter and a setter each; what a torch lacks of them is left out there.
    entered |= {name for names in torch_flags._NAMES for name in names}
    used = {f"{file}: {name}" for file, tree in sources() for name in inner_names(tree) - entered}
    assert not used, f"enter these in torch_names.py: {sorted(used)}"


@pytest.mark.parametrize("module", NEEDED)
def test_no_table_has_a_name_that_nobody_uses(module: str) -> None:
    text = (SOURCE / f"{module}.py").read_text(encoding="utf-8").lower()
    last = [re.split("[.:(]", path.rstrip(")"))[-1] for path in NEEDED[module]]
    # Some are written as f"_get_{name}".
    assert not [name for name in last if name.lower() not in text and name[len("_get_") :] not in text]


def test_of_the_flags_only_those_of_other_builds_are_left_out() -> None:
    absent = {name for names in torch_flags._NAMES for name in names if not hasattr(torch._C, name)}
    assert absent <= {"_cuda_get_cudnn_benchmark_limit", "_cuda_set_cudnn_benchmark_limit"}


def pretend(place: Path, version: str | None, *, importable: bool) -> dict[str, str]:
    """Return an environment in which torch seems to be of ``version``, and is one that cannot be imported."""
    if version is not None:
        info = place / f"torch-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(distribution("torch").read_text("entry_points.txt") or "")  # backends
    if not importable:
        (place / "torch.py").write_text("raise ImportError('cannot import name that came later')\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(place), str(SOURCE.parent)])}


def test_a_torch_that_is_too_old_is_refused_in_one_sentence(tmp_path: Path) -> None:
    environment = pretend(tmp_path, "2.9.1+cu128", importable=False)
    for words in (["run", "jobs.yaml"], ["plan", "jobs.yaml"], ["resume", "runs/1"]):
        command = [sys.executable, "-m", "motet", *words]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.count("\n") == 1
        for said in ("torch 2.9 is too old", "2.11", "pip install"):
            assert said in ran.stderr
    for name in ("run", "launch"):
        code = f"from motet.errors import UsageError\ntry: from motet import {name}\nexcept UsageError as e: print(e)"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
        assert "torch 2.9 is too old" in ran.stdout, ran.stderr


def test_without_torch_the_remedy_is_reported(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-m", "motet", "run", "jobs.yaml"]  # -S: without installed packages
    environment = pretend(tmp_path, None, importable=True)
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
    assert "Motet needs torch" in ran.stderr
    assert "pip install" in ran.stderr


def test_a_torch_without_metadata_is_asked_itself(tmp_path: Path) -> None:
    environment = pretend(tmp_path, None, importable=True)
    (tmp_path / "torch.py").write_text("__version__ = '2.10.0a0+git1234'\n")
    command = [sys.executable, "-S", "-m", "motet", "run", "jobs.yaml"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "torch 2.10 is too old" in ran.stderr


def test_help_and_reports_need_no_torch(tmp_path: Path) -> None:
    environment = pretend(tmp_path, "2.9.1", importable=False)
    for words in (["--help"], ["report", str(tmp_path)]):
        command = [sys.executable, "-m", "motet", *words]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert "too old" not in ran.stderr


def test_a_torch_that_is_newer_than_tested_is_reported_once(tmp_path: Path) -> None:
    newer = f"{NEWEST[0]}.{NEWEST[1] + 1}"
    environment = pretend(tmp_path, f"{newer}.0", importable=True)
    (tmp_path / "jobs.yaml").write_text("jobs:\n  a: {call: 'time:time'}\n")
    command = [sys.executable, "-m", "motet", "run", "jobs.yaml"]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count(f"torch {newer} is newer than") == 1
    quiet = subprocess.run(
        [*command, "--quiet"], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert "newer than" not in quiet.stderr


def test_a_newer_torch_that_lacks_a_name_is_refused_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "3.0.1")
    monkeypatch.delattr(DistributedDataParallel, "_sync_buffers")
    torch_versions.check.cache_clear()
    with pytest.raises(
        UsageError, match=r"torch 3\.0 has no torch\.nn\.parallel:DistributedDataParallel\._sync_buffers"
    ):
        torch_versions.check()


def test_the_installed_torch_is_one_that_was_tested() -> None:
    assert OLDEST <= (torch_versions.torch_version() or ()) <= NEWEST
