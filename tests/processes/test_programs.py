"""Programs of many kinds, two of each in one run, leave the bytes that they leave alone under torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.processes.command import bytes_of, place_in, torchrun, words_of

PROGRAMS = Path(__file__).with_name("programs.py")
ALL = [
    "fsdp2", "replicate", "zero", "post_local_sgd", "tensor_parallel", "diloco", "by_hand", "by_hand_async",
    "gathers_in_step", "spawns", "joins", "unused", "two_models", "accumulates", "saves_async", "waits_unseen", "loads",
    "sleeps_in_workers",
]  # fmt: skip
FEW = ["fsdp2", "zero", "by_hand", "unused", "sleeps_in_workers"]
NO_TURNS: set[str] = set()
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("num_workers", "kinds"),
    [
        pytest.param(2, FEW, id="few"),
        *(pytest.param(num, ALL, marks=slow, id=f"all-{num}") for num in (1, 2, 3)),
    ],
)
def test_programs_leave_what_they_leave_alone(tmp_path: Path, num_workers: int, kinds: list[str]) -> None:
    """All steps of one job stand beside all of another's: each kind twice, at one time."""
    with place_in(tmp_path / "alone") as alone, place_in(tmp_path / "beside") as beside:
        torchrun(alone, num_workers, PROGRAMS, ",".join(kinds), "--out=x")
        for copy in ("a", "b"):
            (beside.path / copy).mkdir()  # a file's name stands in it
        each = [f"{kind} --out={copy}/x" for kind in kinds for copy in ("a", "b")]
        status, out, err = beside.motet(*words_of(num_workers, PROGRAMS, each, "--at-once=12"))
        assert status == 0, (out, err)
        expected = bytes_of(alone.path, "x.*.pt")
        assert len(expected) == len(kinds) * num_workers
        for copy in ("a", "b"):
            found = bytes_of(beside.path / copy, "x.*.pt")
            assert found.keys() == expected.keys()
            assert [name for name in expected if found[name] != expected[name]] == []
        results = beside.results()["jobs"]
        silent = {
            kind for kind in kinds for name, job in results.items() if name.startswith(f"{kind}-") and not job["turns"]
        }
        assert num_workers == 1 or silent <= NO_TURNS


def test_all_kinds_are_tested() -> None:
    names = PROGRAMS.read_text().partition("for each in (")[2].partition(")")[0]
    assert [name.strip() for name in names.split(",") if name.strip()] == ALL
    assert set(FEW) < set(ALL)
