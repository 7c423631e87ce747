"""Jobs in processes of their own hold equal frozen weights once, and each ends as it does alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.distributed.identity import differences
from tests.processes.command import place_in, torchrun, words_of

SCRIPT = Path(__file__).with_name("frozen_script.py")
REPOSITORY = str(Path(__file__).parents[2])
KINDS = ("adapter", "unfreezing", "merging", "referring")
OTHERS = ("writing", "loading", "resizing", "copying", "sharing_memory", "loader", "teacher", "receiving")


def must_end_as_alone(folder: Path, kinds: tuple[str, ...], num_workers: int) -> None:
    with place_in(folder / "alone") as alone, place_in(folder / "beside") as beside:
        for place in (alone, beside):
            place.environment["PYTHONPATH"] = f"{REPOSITORY}:{place.environment.get('PYTHONPATH', '')}"
        torchrun(alone, num_workers, SCRIPT, *kinds, "--out", "x")
        each = [f"{kind} --out x" for kind in kinds]
        status, out, err = beside.motet(*words_of(num_workers, SCRIPT, each))
        assert status == 0, (out, err)
        found: list[str] = []
        for kind in kinds:
            for worker in range(num_workers):
                name = f"x.{kind}.{worker}.pt"
                one, other = (torch.load(place.path / name, weights_only=False) for place in (beside, alone))
                found += differences(one, other, f"{kind}, worker {worker}")
        assert not found, "\n".join(found[:20])
        results = json.loads((beside.path / "out" / "results.json").read_text())
    notices = [notice for notice in results["notices"] if "frozen" in notice]
    assert notices, results["notices"]
    number, _, text = notices[-1].partition(" ")
    assert 2 <= int(number) <= len(kinds), notices  # those that have ended by then share no more
    assert text.startswith("jobs share "), notices
    assert max(job["memory"]["shared_bytes"] for job in results["jobs"].values()) > 0


def test_four_end_as_they_do_alone(tmp_path: Path) -> None:
    must_end_as_alone(tmp_path, KINDS, 2)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [1, 2])
def test_all_end_as_they_do_alone(tmp_path: Path, num_workers: int) -> None:
    must_end_as_alone(tmp_path, KINDS + OTHERS, num_workers)
