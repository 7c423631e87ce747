"""What frameworks keep one of per process; with the real libraries where they are installed."""

from __future__ import annotations

import io
import subprocess
import sys
import types

import pytest
from tests.unit.isolation.test_isolation import Job, alternate

from motet import isolation
from motet.isolation import frameworks

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


def test_each_job_has_its_own_bars() -> None:
    tqdm = pytest.importorskip("tqdm")
    saved, positions, held = {}, {}, []
    outside = isolation.take_all()
    for name in ("a", "b"):
        saved[name] = outside.copy()
        before = isolation.exchange(saved[name])
        bars = [tqdm.tqdm(total=3, file=io.StringIO(), leave=False) for _ in range(2)]
        positions[name] = [bar.pos for bar in bars]
        held += bars
        saved[name] = isolation.exchange(before)
    assert positions == {"a": [0, 1], "b": [0, 1]}
    for bar in held:  # in nobody's turn, as a garbage collector may
        bar.close()
    isolation.put_all(outside)


def test_each_job_has_a_console_that_may_be_live() -> None:
    rich = pytest.importorskip("rich")
    from rich.live import Live

    saved, lives = {}, {}
    outside = isolation.take_all()
    for name in ("a", "b"):
        saved[name] = outside.copy()
        before = isolation.exchange(saved[name])
        rich.reconfigure(file=io.StringIO())
        lives[name] = Live(console=rich.get_console(), auto_refresh=False)
        lives[name].start()
        saved[name] = isolation.exchange(before)
    for name in ("a", "b"):
        before = isolation.exchange(saved[name])
        assert rich.get_console() is lives[name].console
        lives[name].stop()
        saved[name] = isolation.exchange(before)
    assert lives["a"].console is not lives["b"].console
    isolation.put_all(outside)


def test_switches_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("transformers.utils.logging")
    stand_in._tqdm_active, stand_in._tqdm_hook = True, None  # type: ignore[attr-defined]
    hub = types.ModuleType("huggingface_hub.utils.tqdm")
    hub.progress_bars_disabled = {}  # type: ignore[attr-defined]
    early = isolation.take_all().copy()  # before anybody imported it
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setitem(sys.modules, hub.__name__, hub)
    outside = isolation.take_all()
    job = isolation.take_all().copy()
    before = isolation.exchange(job)
    stand_in._tqdm_active = False  # type: ignore[attr-defined]
    hub.progress_bars_disabled["_global"] = True  # type: ignore[attr-defined]
    job = isolation.exchange(before)
    assert (stand_in._tqdm_active, hub.progress_bars_disabled) == (True, {})  # type: ignore[attr-defined]
    before = isolation.exchange(job)
    assert (stand_in._tqdm_active, hub.progress_bars_disabled) == (False, {"_global": True})  # type: ignore[attr-defined]
    isolation.exchange(early)
    assert (stand_in._tqdm_active, hub.progress_bars_disabled) == (True, {})  # type: ignore[attr-defined]
    isolation.put_all(outside)


def test_the_rank_that_lightning_believes(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = types.ModuleType("lightning_utilities.core.rank_zero")

    def rank_zero_only() -> None: ...

    stand_in.rank_zero_only = rank_zero_only  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    monkeypatch.setenv("RANK", "3")
    assert frameworks.fresh_rank_zero() == 3
    job = isolation.take_all().copy()
    outside = isolation.exchange(job)
    rank_zero_only.rank = 1  # type: ignore[attr-defined]
    job = isolation.exchange(outside)
    assert not hasattr(rank_zero_only, "rank")
    outside = isolation.exchange(job)
    assert rank_zero_only.rank == 1  # type: ignore[attr-defined]
    isolation.put_all(outside)


def test_what_is_registered_with_the_auto_classes_is_the_jobs_own() -> None:
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    from transformers import AutoConfig, PretrainedConfig

    isolation.put_all(isolation.take_all())
    seen = []

    def job() -> Job:
        class Config(PretrainedConfig):  # type: ignore[misc]
            model_type = "clash_auto"

        seen.append("clash_auto" in auto.CONFIG_MAPPING)
        AutoConfig.register("clash_auto", Config)
        for _ in range(3):
            yield
            assert type(AutoConfig.for_model("clash_auto")) is Config

    alternate(job(), job())
    assert seen == [False, False]
    assert "clash_auto" not in auto.CONFIG_MAPPING
