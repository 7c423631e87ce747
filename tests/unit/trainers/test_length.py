"""How many turns a trainer on the stack will take; with stand-ins, the real ones are tried in tests/integrations."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from motet.trainers.length import turns_expected


def trainer_module(monkeypatch: pytest.MonkeyPatch, name: str, method: str, file: str) -> Any:
    """Put a module in place whose class ``Trainer`` runs ``step`` inside its method."""
    source = f"class Trainer:\n    def {method}(self, step):\n        return step()\n"
    module = types.ModuleType(name)
    module.__file__ = file
    exec(compile(source, file, "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    return module.Trainer()


def here() -> int | None:
    return turns_expected(sys._getframe())


@pytest.mark.parametrize(
    ("estimated", "automatic", "expected"),
    [(10, True, 7), (float("inf"), True, None), (-1, True, None), (10, False, None), (None, True, None)],
)
def test_lightning(monkeypatch: pytest.MonkeyPatch, estimated: Any, automatic: bool, expected: int | None) -> None:
    loop = trainer_module(monkeypatch, "lightning.pytorch.loops.fit_loop", "advance", "/nowhere/fit_loop.py")
    module = types.SimpleNamespace(automatic_optimization=automatic)
    loop.trainer = types.SimpleNamespace(
        lightning_module=module, estimated_stepping_batches=estimated, global_step=3
    )  # resumed at its third step
    assert loop.advance(here) == expected


def test_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_module(monkeypatch, "transformers.trainer", "train", "/nowhere/trainer.py")
    trainer.state = types.SimpleNamespace(max_steps=100, global_step=0)
    assert trainer.train(here) == 100
    trainer.state = None
    assert trainer.train(here) is None


def test_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert here() is None
    trainer_module(monkeypatch, "transformers.trainer", "train", "/nowhere/trainer.py")
    assert here() is None
