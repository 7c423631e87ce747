"""Frameworks' loops, each in a process of its own beside all others: as their programs end under torchrun alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.distributed.identity import differences
from tests.integrations.conftest import skip_without
from tests.processes.command import place_in, torchrun, words_of

SCRIPT = Path(__file__).with_name("own_process_script.py")
REPOSITORY = str(Path(__file__).parents[2])
LOOPS = {
    "loops_lightning": ["train", "train?adversaries", "train?bf16&accumulate&seeded"],
    "loops_fabric": ["train", "train?accumulate"],
    "loops_accelerate": ["train", "train?accumulate", "train?stop_early"],
    "loops_hugging_face": ["train", "train?accumulate&smooth", "train?generate"],
}


@pytest.mark.slow
@pytest.mark.parametrize("module", LOOPS)
def test_loops_end_as_they_do_alone(tmp_path: Path, module: str) -> None:
    skip_without(f"{module}:")
    names = [*(f"{module}:{loop}" for loop in LOOPS[module]), "loops_plain:train"]
    with place_in(tmp_path / "alone") as alone, place_in(tmp_path / "beside") as beside:
        for place in (alone, beside):
            place.environment["PYTHONPATH"] = f"{REPOSITORY}:{place.environment.get('PYTHONPATH', '')}"
        for number, name in enumerate(names):
            torchrun(alone, 2, SCRIPT, name, str(number))
        each = [f"'{name}' {number}" for number, name in enumerate(names)]
        status, out, err = beside.motet(*words_of(2, SCRIPT, each))
        assert status == 0, (out, err)
        found: list[str] = []
        for number, name in enumerate(names):
            for worker in range(2):
                ended = f"{number}/ended.{worker}.pt"
                one, other = (torch.load(place.path / ended, weights_only=False) for place in (beside, alone))
                found += differences(one, other, f"{name}, worker {worker}")
        assert not found, "\n".join(found[:20])
