"""torch.compile: what is compiled for one job is not changed by what is compiled for another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from motet.testing import Gang

MUST_EQUAL = "tests.distributed.jobs_compiled:must_equal_alone"
STEPS = 6
NO_COMPILER = "torch's default backend needs a C++ compiler, and there is none"
needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason=NO_COMPILER)
BACKENDS = ["aot_eager", pytest.param("inductor", marks=[needs_compiler, pytest.mark.slow])]


def run(gang: Gang, loops: dict[str, tuple[str, dict[str, Any]]]) -> None:
    turns = {"several": 2 * STEPS}
    for worker in gang.run(MUST_EQUAL, loops, timeout_seconds=240):
        assert worker == {job: turns.get(job, STEPS) for job in loops}


@pytest.mark.parametrize("num_workers", [1, 2, 3])
@pytest.mark.parametrize("loop", ["compiled_ddp", "compiled_inside", "compiled_method", "compiled_step"])
def test_compiled_loop_beside_a_plain_one(gangs: Callable[[int], Gang], loop: str, num_workers: int) -> None:
    loops = {"compiled": (f"jobs_compiled:{loop}", {"backend": "aot_eager"}), "plain": ("jobs_plain:plain", {})}
    run(gangs(num_workers), loops)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_three_jobs_compile_the_same_model_at_several_widths(
    gangs: Callable[[int], Gang], num_workers: int, backend: str
) -> None:
    loops = {
        f"width-{width}": ("jobs_compiled:compiled_ddp", {"backend": backend, "width": width}) for width in (16, 24, 33)
    }
    run(gangs(num_workers), loops)


def test_more_widths_than_dynamo_compiles_for_one_function(gangs: Callable[[int], Gang]) -> None:
    loops = {f"width-{w}": ("jobs_compiled:compiled_inside", {"width": w}) for w in range(10, 20)}
    run(gangs(2), loops)


def test_recompilations_of_one_job_beside_those_of_another(gangs: Callable[[int], Gang]) -> None:
    loops = {f"width-{w}": ("jobs_compiled:compiled_method", {"width": w}) for w in (16, 32)}
    run(gangs(2), loops)


def test_a_function_compiled_on_import_and_used_by_several_jobs(gangs: Callable[[int], Gang]) -> None:
    loops = {f"width-{w}": ("jobs_compiled:compiled_function", {"width": w}) for w in (16, 32, 40)}
    run(gangs(2), loops)
