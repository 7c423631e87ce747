"""Imports point down only, and what is patched stands in one table."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import motet

SOURCE = Path(__file__).parent.parent / "src" / "motet"
FREE = {"__init__", "__main__", "demo", "testing"}  # the front door, and what only users import
# Patches are rows of `motet.patches`. Compiling in a job's name sets a counter; the isolation puts back state.
MAY_SET_TORCH = ("intercept/ddp.py", "isolation/")
BOTTOM_MAY_IMPORT = {"motet", "__future__"}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0].split(".")[0] not in FREE)


@dataclass(frozen=True)
class Layer:
    """A name in the table of layers. ``height`` counts its lines from the bottom."""

    name: str
    height: int
    marks: frozenset[str]


def documented_layers(docstring: str) -> dict[str, Layer]:
    """Read the table of layers: names, two spaces or more, what they are for, marks in brackets."""
    table = re.search(r"reads all of this here::\n\n((?: {4}.*\n)+)", docstring)
    assert table is not None
    layers: dict[str, Layer] = {}
    for height, line in enumerate(reversed(table[1].splitlines())):
        names, _, purpose = line.strip().partition("  ")
        marks = frozenset(re.findall(r"\((pure|together)\)", purpose))
        for name in names.split(", "):
            assert name not in layers, f"{name} stands twice in the table of layers"
            layers[name] = Layer(name, height, marks)
    return layers


LAYERS = documented_layers(motet.__doc__ or "")


def layer_of(module: str) -> Layer:
    """Return the layer of ``motet.<module>``: that of the longest name in the table which it begins with."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (layer := LAYERS.get(".".join(parts[:length]))) is not None:
            return layer
    pytest.fail(f"motet.{module} has no layer: enter it in the table of src/motet/__init__.py")


def module_of(path: Path) -> str:
    """Return the dotted name of a file's module, without ``motet``."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


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


def imported_modules(tree: ast.AST) -> set[str]:
    """Return the modules of Motet's that ``tree`` imports; what is no module counts as the front door's, ``""``."""
    bare = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found = {""} if "motet" in bare else set()
    for name in imports(tree):
        parts = name.split(".")[1:] if name.split(".")[0] == "motet" else []
        while len(parts) > 1 and not is_module(parts):
            parts.pop()
        if parts:
            found.add(".".join(parts) if is_module(parts) and parts[0] not in FREE else "")
    return found


def is_module(parts: list[str]) -> bool:
    """Return whether ``motet.<parts>`` is a module, and not a name in one."""
    place = SOURCE.joinpath(*parts)
    return (place / "__init__.py").exists() or place.with_suffix(".py").exists()


def upward(tree: ast.AST, module: str) -> list[str]:
    """Return the modules of layers that stand above, or beside, that of ``module`` and which it imports."""
    own = layer_of(module)
    return sorted(
        name or "motet"
        for name in imported_modules(tree)
        if not name or not (layer_of(name) == own or layer_of(name).height < own.height)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_point_down(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    module = module_of(path)
    above = upward(tree, module)
    assert not above, f"imports from a layer above: {above}"
    if "pure" in layer_of(module).marks:
        foreign = {name.split(".")[0] for name in imports(tree)} - set(sys.stdlib_module_names) - BOTTOM_MAY_IMPORT
        assert not foreign, f"what is pure needs the standard library alone, not {sorted(foreign)}"


@pytest.mark.parametrize("path", sorted((SOURCE / "cli").rglob("*.py")), ids=lambda path: path.name)
def test_the_command_does_without_what_serves_jobs_that_live_together(path: Path) -> None:
    found = imported_modules(ast.parse(path.read_text(encoding="utf-8")))
    assert not [name for name in found if name and "together" in layer_of(name).marks]


@pytest.mark.parametrize(
    ("module", "code", "found"),
    [
        ("intercept.buffers", "def f():\n    from motet.running import run", ["running"]),
        ("intercept.buffers", "import motet.cli.run", ["cli.run"]),
        ("checkpoints.files", "from motet import processes", ["processes"]),
        ("profiling", "from motet.integrations.wandb import x", ["integrations.wandb"]),  # beside it
        ("pipeline.loop", "from motet import run", ["motet"]),
        ("pipeline.loop", "def f():\n    import motet", ["motet"]),
        ("cli.run", "import motet as m", ["motet"]),
        ("pipeline.loop", "from motet.pipeline.ledger import JobTotals\nfrom motet.errors import MotetError", []),
    ],
)
def test_an_import_upward_is_found(module: str, code: str, found: list[str]) -> None:
    assert upward(ast.parse(code), module) == found


def test_every_layer_exists() -> None:
    assert not [name for name in LAYERS if not is_module(name.split("."))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_torch_is_patched_by_the_table_alone(path: Path) -> None:
    found = patches(ast.parse(path.read_text(encoding="utf-8")))
    allowed = path.relative_to(SOURCE).as_posix().startswith(MAY_SET_TORCH)
    assert allowed or not found, f"patches torch: {found}"


def test_a_patch_is_found() -> None:
    code = "import torch\nfrom torch.nn import parallel as p\ntorch.a.b = 1\nsetattr(p, 'x', 2)\nself.torch = 3"
    assert len(patches(ast.parse(code))) == 2
