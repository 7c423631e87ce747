"""Programs of many kinds, two of each in one run, leave the bytes that they leave alone under torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.processes.command import bytes_of, place_in, torchrun, words_of

PROGRAMS = Path(__file__).with_name("programs.py")
ALL = [
    "fsdp2", "replicate", "zero", "post_local_sgd", "tensor_parallel", "diloco", "by_hand", "by_hand_async",
    "gathers_in_step", "spawns", "joins", "unused", "two_models", "accumulates", "saves_async", "waits_unseen", "loads",
]  # fmt: skip
FEW = ["fsdp2", "zero", "by_hand", "unused", "loads"]
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
        silent = {"spawns"} if num_workers == 1 else set()
        assert all(job["turns"] > 0 for name, job in results.items() if name.split("-")[0] not in silent)


def test_all_kinds_are_tested() -> None:
    names = PROGRAMS.read_text().partition("for each in (")[2].partition(")")[0]
    assert [name.strip() for name in names.split(",") if name.strip()] == ALL
    assert set(FEW) < set(ALL)


def test_what_a_job_forks_leaves_the_turn_to_its_parent(tmp_path: Path) -> None:
    """A DataLoader's workers wait with `time.sleep`, too; the turn is none of theirs."""
    script = tmp_path / "sleeps.py"
    script.write_text(SLEEPS_IN_WORKERS)
    with place_in(tmp_path / "alone") as alone, place_in(tmp_path / "beside") as beside:
        torchrun(alone, 2, script, ".")
        for copy in ("a", "b"):
            (beside.path / copy).mkdir()
        status, out, err = beside.motet(*words_of(2, script, ["a", "b"]))
        assert status == 0, (out, err)
        for copy in ("a", "b"):
            assert bytes_of(alone.path, "*.pt") == bytes_of(beside.path / copy, "*.pt")


SLEEPS_IN_WORKERS = """
import sys, time, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 60
    def __getitem__(self, at):
        time.sleep(0.005)
        return torch.full((4,), float(at))

dist.init_process_group("gloo")
torch.manual_seed(0)
net = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
for batch in torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2, multiprocessing_context="fork"):
    optimizer.zero_grad()
    net(batch).square().mean().backward()
    optimizer.step()
torch.save(net.module.weight.detach().clone(), f"{sys.argv[1]}/{dist.get_rank()}.pt")
dist.destroy_process_group()
"""
