"""Every loop of the bit-identity suite ends in a process of its own, beside others, as it does alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.distributed.identity import differences
from tests.distributed.tables import LOOPS
from tests.processes.command import place_in, torchrun, words_of

SCRIPT = Path(__file__).with_name("identity_script.py")
REPOSITORY = str(Path(__file__).parents[2])
PARTS = 4


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_loops_end_as_they_do_alone(tmp_path: Path, num_workers: int) -> None:
    with place_in(tmp_path / "alone") as alone, place_in(tmp_path / "beside") as beside:
        for place in (alone, beside):
            place.environment["PYTHONPATH"] = f"{REPOSITORY}:{place.environment.get('PYTHONPATH', '')}"
        each = []
        for part in range(PARTS):
            torchrun(alone, num_workers, SCRIPT, str(part), str(PARTS), "--out", "x")
            each.append(f"{part} {PARTS} --out x")
        status, out, err = beside.motet(*words_of(num_workers, SCRIPT, each))
        assert status == 0, (out, err)
        found: list[str] = []
        for loop in LOOPS:
            for worker in range(num_workers):
                name = f"x.{loop.replace(':', '.')}.{worker}.pt"
                one, other = (torch.load(place.path / name, weights_only=False) for place in (beside, alone))
                found += differences(one, other, f"{loop}, worker {worker}")
        assert not found, "\n".join(found[:20])
