"""What is imported ahead of the jobs' processes, for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from motet.processes import imports
from motet.processes.process_job import ProcessJob

SCRIPT = '''"""A script."""
from __future__ import annotations

import json, os.path
from torch.nn import Linear, functional
from beside import thing

WIDTH = 3
import decimal
'''


def test_what_scripts_import_at_their_tops_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are asked for as well: some packages import the rest of themselves only then."""
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("")
    asked: list[str] = []

    class Module:
        def __init__(self, name: str) -> None:
            asked.append(name)

        def __getattr__(self, name: str) -> object:
            asked.append(name)
            return self

    monkeypatch.setattr(imports, "import_module", Module)
    spec = {"kind": "script", "target": str(tmp_path / "train.py")}
    imports.import_ahead([ProcessJob("a", None, spec), ProcessJob("b", None, spec)])
    assert asked == ["json", "os.path", "torch.nn", "Linear", "functional"]
