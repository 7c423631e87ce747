"""Imports point down only, and torch is patched in one module alone."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "motet"
# From bottom to top; a module may import those of its own layer and of layers below it.
LAYERS = [
    # the standard library alone
    "errors suggest torch_names torch_versions confidential tracebacks divergence bound order simulate clockwork "
    "resting planning plan events results run_dir config option_kinds",
    "jobs resuming",
    "output isolation clocks device_time workers handle",
    "gradients checkpoints",
    "buffers seams turns world_seams job_seams job_output job_surroundings same_files memory nonfinite saving pipeline "
    "running profiling",
    "observe integrations",
    "entry launcher",
    "cli",
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer.split()}
FREE = {"__init__", "__main__", "demo", "testing", "shaped_links"}  # the front door, and what only users import
# The seams patch torch; the isolation puts back torch's own state, and compiling in a job's name sets a counter of it.
MAY_SET_TORCH = {"seams", "isolation", "job_seams"}
BOTTOM_MAY_IMPORT = {"motet", "__future__"}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0].split(".")[0] not in FREE)


def rank_of(module: str) -> int:
    """Return the layer of ``motet.<module>``; a new module has to be entered above."""
    for name in (module, module.split("_")[0]):
        if name in RANK:
            return RANK[name]
    pytest.fail(f"motet.{module} has no layer: enter it in {Path(__file__).name}")


def imports(tree: ast.AST) -> set[str]:
    """Return the dotted names of all modules that ``tree`` imports, inside functions too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports in full"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def torch_names(tree: ast.AST) -> set[str]:
    """Return the names that stand for torch, its modules and what is imported from them."""
    return {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0] == "torch"
    }


def patches(tree: ast.AST) -> list[str]:
    """Return each assignment to, or ``setattr`` on, an attribute of something imported from torch."""
    names, found = torch_names(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            target: ast.expr = node
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"setattr", "delattr"}:
            target = node.args[0]
        else:
            continue
        if ast.unparse(target).split(".")[0] in names:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_down(path: Path) -> None:
    own = rank_of(path.relative_to(SOURCE).parts[0].removesuffix(".py"))
    imported = imports(ast.parse(path.read_text(encoding="utf-8")))
    above = {
        name for name in imported if (parts := name.split("."))[0] == "motet" and parts[1:] and is_above(parts, own)
    }
    assert not above, f"imports from a layer above: {sorted(above)}"
    if own == 0:
        foreign = {name.split(".")[0] for name in imported} - set(sys.stdlib_module_names) - BOTTOM_MAY_IMPORT
        assert not foreign, f"the bottom layer needs the standard library alone, not {sorted(foreign)}"


def is_above(parts: list[str], own: int) -> bool:
    """Tell whether the module named by ``parts`` stands above the layer ``own``; attributes of ``motet`` do."""
    is_module = (SOURCE / parts[1]).is_dir() or (SOURCE / f"{parts[1]}.py").exists()
    return not is_module or parts[1] in FREE or rank_of(parts[1]) > own


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_only_the_seams_patch_torch(path: Path) -> None:
    found = patches(ast.parse(path.read_text(encoding="utf-8")))
    allowed = path.relative_to(SOURCE).parts[0].removesuffix(".py") in MAY_SET_TORCH
    assert allowed or not found, f"patches torch: {found}"


def test_a_patch_is_found() -> None:
    code = "import torch\nfrom torch.nn import parallel as p\ntorch.a.b = 1\nsetattr(p, 'x', 2)\nself.torch = 3"
    assert len(patches(ast.parse(code))) == 2
