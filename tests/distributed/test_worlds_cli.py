"""Scripts find in ``torch.distributed`` what they find alone under torchrun, and what they send stays their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("worlds_script.py")
# The last leaves a thread that saves; the process ends when it has.
KINDS = ["early_seed", "reduces", "subgroups", "objects", "in_thread", "compiled", "again", "async_save"]


def command(*words: object, place: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        check=False, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.mark.parametrize("num_workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_scripts_find_what_they_find_alone(tmp_path: Path, num_workers: int) -> None:
    workers = f"--nproc-per-node={num_workers}"
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    for offset in (1, 2):
        status, text = command(
            "-m", "torch.distributed.run", "--standalone", workers, SCRIPT, *KINDS, "--out", alone, "--offset", offset,
            place=tmp_path,
        )  # fmt: skip
        assert status == 0, text
    each = [f"--each={kind} --out {together} --offset {offset}" for kind in KINDS for offset in (1, 2)]
    status, text = command(
        "-m", "motet", "run", workers, SCRIPT, *each, "--run-dir=out", "--timeout=100", place=tmp_path
    )
    assert status == 0, text
    expected = {path.name: json.loads(path.read_text()) for path in alone.glob("*.json")}
    found = {path.name: json.loads(path.read_text()) for path in together.glob("*.json")}
    assert len(expected) == len(KINDS) * 2 * num_workers
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name
    for kind_of_run in (alone, together):
        saved = sorted(path.parent.name for path in kind_of_run.glob("async_save-*/*/.metadata"))
        assert saved == sorted([*"012345", "first"] * 2), "also the last one, which no loop waits for"
