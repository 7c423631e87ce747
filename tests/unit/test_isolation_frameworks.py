"""Accelerate's states, with the real library where it is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

_TWO_JOBS = """
import sys
from motet import isolation

def job(precision, steps):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=steps)
    for _ in range(3):
        yield
        assert AcceleratorState().mixed_precision == accelerator.mixed_precision == precision
        assert accelerator.gradient_accumulation_steps == GradientState().num_steps == steps
    AcceleratorState._reset_state(reset_partial_state=True)
    yield

assert "accelerate" not in sys.modules
outside = isolation.take_all()
jobs = [job("bf16", 2), job("no", 3), job("bf16", 5)]
saved = [outside.copy() for _ in jobs]
for _ in range(4):
    for i, one in enumerate(jobs):
        outside = isolation.exchange(saved[i])
        next(one)
        saved[i] = isolation.exchange(outside)
from accelerate.state import AcceleratorState, GradientState, PartialState
assert not any(cls._shared_state for cls in (AcceleratorState, GradientState, PartialState))
"""


def test_accelerators_of_different_jobs() -> None:
    pytest.importorskip("accelerate")
    subprocess.run([sys.executable, "-W", "ignore", "-c", _TWO_JOBS], check=True)
