"""The settings of Dynamo and its like are each job's own: by torch's context variables, or by entries."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch._dynamo.config as dynamo
import torch._functorch.config as functorch
import torch._inductor.config as inductor
import torch.fx.experimental._config as shapes
import torch.utils.serialization.config as serialization

import motet

# Settings, two values that jobs give them, and how each is read.
SETTINGS: dict[str, tuple[object, str, object, object]] = {
    "recompiles": (dynamo, "recompile_limit", 3, 5),
    "an alias": (dynamo, "cache_size_limit", 3, 5),
    "tensors that change shape": (dynamo, "assume_static_by_default", False, False),
    "inductor": (inductor, "deterministic", True, True),
    "inductor, nested": (inductor.triton, "cudagraphs", True, True),
    "a list": (inductor, "decompose_mem_bound_mm", True, True),
    "functorch": (functorch, "donated_buffer", True, False),
    "shapes": (shapes, "use_duck_shape", False, False),
    "serialization": (serialization.save, "use_pinned_memory_for_d2h", True, True),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_job_finds_its_own(name: str) -> None:
    module, setting, *values = SETTINGS[name]
    outside = getattr(module, setting)
    seen: dict[str, list[object]] = {}

    def job(value: object, key: str) -> Callable[[], None]:
        def train() -> None:
            ddp = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
            found = seen.setdefault(key, [getattr(module, setting)])
            if key != "nothing":
                setattr(module, setting, value)
            for _ in range(4):
                ddp(torch.ones(1, 2)).sum().backward()
                found.append(getattr(module, setting))

        return train

    results = motet.run(
        {"first": job(values[0], "first"), "second": job(values[1], "second"), "third": job(0, "nothing")}
    )
    assert {result.status for result in results.jobs.values()} == {"finished"}, results
    assert seen == {
        "first": [outside, *[values[0]] * 4],
        "second": [outside, *[values[1]] * 4],
        "nothing": [outside] * 5,
    }
    assert getattr(module, setting) == outside


def test_compiling_in_one_job_heeds_that_jobs_settings() -> None:
    """A limit of recompiles that one job lowers does not fall on the other."""
    compiled = {"low": 0, "usual": 0}

    def job(name: str) -> Callable[[], None]:
        def train() -> None:
            def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
                compiled[name] += 1
                return graph.forward

            if name == "low":
                dynamo.recompile_limit = 1
            ddp = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 1))
            own = eval("lambda x, scale: x * scale")  # compiled code is kept by code object: before 2.13 for all jobs
            function = torch.compile(own, backend=backend, dynamic=False)
            for step in range(4):
                ddp(function(torch.ones(1, 2), float(step + 2))).sum().backward()

        return train

    motet.run({name: job(name) for name in compiled})
    assert compiled == {"low": 1, "usual": 4}
