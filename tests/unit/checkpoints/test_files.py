"""Checkpoints on disk: what is written is found again, and whose it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from motet.checkpoints import Checkpoints, Found, snapshot
from motet.errors import CheckpointError, UsageError


def workers(directory: Path, job: str = "narrow", num_workers: int = 2, **options: Any) -> list[Checkpoints]:
    """Return the job's checkpoints as each worker sees them."""
    return [Checkpoints(directory, job, worker=rank, num_workers=num_workers, **options) for rank in range(num_workers)]


def payloads(turn: int, num_workers: int = 2) -> dict[str, Any]:
    """Return the parts of a small checkpoint, each different at each turn."""
    parts: dict[str, Any] = {"shared": {"weight": torch.full((64,), float(turn)), "turn": turn}}
    return parts | {
        f"worker-{rank}": {"rank": rank, "random": torch.arange(turn, turn + 9)} for rank in range(num_workers)
    }


def write(gang: list[Checkpoints], turn: int) -> Found:
    """Write a whole checkpoint, as all workers would."""
    made = payloads(turn, len(gang))
    parts = [each.write_part(turn, f"worker-{each.worker}", made[f"worker-{each.worker}"]) for each in gang]
    parts.append(gang[0].write_part(turn, "shared", made["shared"]))
    return gang[0].commit(turn, parts)


def same(one: Any, other: Any) -> bool:
    """Tell whether two payloads are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def check_good(checkpoints: Checkpoints, found: Found | None, turn: int) -> None:
    """Assert that ``found`` is the whole checkpoint of ``turn``."""
    assert found is not None
    assert found.turn == turn
    for name, payload in payloads(turn, found.num_workers).items():
        assert same(checkpoints.load(found, name), payload)


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(os.listdir(checkpoints.directory))


def test_there_is_none_at_first(tmp_path: Path) -> None:
    (checkpoints, _) = workers(tmp_path)
    checkpoints.remove_leftovers()
    assert checkpoints.latest() is None
    assert not (tmp_path / "narrow").exists()


def test_the_newest_is_found_by_every_worker_and_the_oldest_go(tmp_path: Path) -> None:
    gang = workers(tmp_path)
    for turn in (50, 100, 150):
        found = write(gang, turn)
        assert found == gang[0].latest()
        for each in gang:
            check_good(each, each.open(found.name), turn)
    assert names(gang[0]) == ["turn-00000100", "turn-00000150"]
    assert sorted(os.listdir(found.path)) == ["manifest.json", "shared.pt", "worker-0.pt", "worker-1.pt"]


def test_files_get_the_users_umask(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        found = write(workers(tmp_path), 1)
    finally:
        os.umask(umask)
    assert found.path.stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in found.path.iterdir()} == {0o640}


def test_the_same_turn_may_be_saved_again(tmp_path: Path) -> None:
    gang = workers(tmp_path, keep=3)
    for _ in range(11):
        found = write(gang, 7)
    assert found.name == "turn-00000007.10"
    assert gang[0].latest() == found
    assert names(gang[0]) == ["turn-00000007.10", "turn-00000007.8", "turn-00000007.9"]


def test_a_history_that_was_given_up_is_not_resumed(tmp_path: Path) -> None:
    gang = workers(tmp_path)
    for turn in (50, 100, 10):
        write(gang, turn)
    check_good(gang[0], gang[0].latest(), 10)
    assert names(gang[0]) == ["turn-00000010"]


def test_a_checkpoint_that_is_not_committed_is_not_there(tmp_path: Path) -> None:
    gang = workers(tmp_path)
    write(gang, 1)
    gang[1].write_part(2, "worker-1", {})
    check_good(gang[0], gang[0].latest(), 1)
    gang[0].remove_leftovers()
    assert names(gang[0]) == ["turn-00000001"]


def test_a_worker_left_over_from_another_attempt_does_not_disturb(tmp_path: Path) -> None:
    old, new = workers(tmp_path, attempt="1"), workers(tmp_path, attempt="2")
    old[1].write_part(5, "worker-1", {"old": 1})
    made = payloads(5)
    parts = [new[0].write_part(5, name, payload) for name, payload in made.items()]
    old[1].write_part(5, "worker-1", {"old": 2})
    new[0].commit(5, parts)
    check_good(new[0], new[0].latest(), 5)


def test_another_number_of_workers_is_reported(tmp_path: Path) -> None:
    write(workers(tmp_path), 1)
    three = workers(tmp_path, num_workers=3)[2]
    found = three.latest()
    assert found is not None
    assert not found.same_workers
    assert found.num_workers == 2
    check_good(three, found, 1)
    with pytest.raises(CheckpointError, match=r"no part 'worker-2'; it has .*worker-1"):
        three.load(found, "worker-2")


def test_another_jobs_checkpoint_is_refused(tmp_path: Path) -> None:
    write(workers(tmp_path, "wide"), 1)
    os.rename(tmp_path / "wide", tmp_path / "narrow")
    with pytest.raises(CheckpointError, match="of job 'wide', not of 'narrow'"):
        workers(tmp_path)[0].latest()


def test_a_part_that_worker_0_does_not_see_names_the_remedy(tmp_path: Path) -> None:
    here, elsewhere = workers(tmp_path / "a"), workers(tmp_path / "b")
    parts = [here[0].write_part(1, "shared", {}), here[0].write_part(1, "worker-0", {})]
    parts.append(elsewhere[1].write_part(1, "worker-1", {}))
    with pytest.raises(CheckpointError, match="file system that all workers share"):
        here[0].commit(1, parts)
    assert here[0].latest() is None
    assert names(here[0]) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "/etc", ".writing-x", "a\0b"])
def test_a_jobs_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="folder"):
        Checkpoints(tmp_path, name, worker=0, num_workers=1)


@pytest.mark.parametrize("name", ["", "..", "turn-1", "turn-00000001/../turn-00000001", "turn-00000009"])
def test_only_a_checkpoints_name_opens(tmp_path: Path, name: str) -> None:
    gang = workers(tmp_path)
    write(gang, 1)
    with pytest.raises(CheckpointError):
        gang[0].open(name)


def test_keeps_at_least_one() -> None:
    with pytest.raises(UsageError, match="keep=0"):
        Checkpoints("x", "a", worker=0, num_workers=1, keep=0)


def test_what_cannot_be_loaded_is_not_written(tmp_path: Path) -> None:
    (checkpoints, _) = workers(tmp_path)
    with pytest.raises(CheckpointError, match="hook is a"):
        checkpoints.write_part(1, "shared", {"hook": print})
    assert not checkpoints.directory.exists()


@pytest.mark.parametrize("job", ["größe", "a b", "lr=0.1", "x" * 200])
def test_unusual_names(tmp_path: Path, job: str) -> None:
    gang = workers(tmp_path, job)
    write(gang, 1)
    check_good(gang[0], gang[0].latest(), 1)


def test_a_name_too_long_for_the_file_system_is_an_error_of_its_own(tmp_path: Path) -> None:
    gang = workers(tmp_path, "x" * 300)
    with pytest.raises(CheckpointError, match="could not be written"):
        write(gang, 1)
    with pytest.raises(CheckpointError, match="cannot look"):
        gang[0].latest()


def test_an_old_one_that_cannot_be_removed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gang = workers(tmp_path, keep=1)
    write(gang, 1)
    (gang[0].directory / ".removing-turn-00000001-0").mkdir()
    (gang[0].directory / ".removing-turn-00000001-0" / "x").touch()
    found = write(gang, 2)
    assert gang[0].latest() == found
    write(gang, 2)
    assert "turn-00000001" in gang[0].problems[0]
    gang[0].remove_leftovers()
    write(gang, 3)
    assert names(gang[0]) == ["turn-00000003"]


def test_a_snapshot_is_what_is_written(tmp_path: Path) -> None:
    (alone,) = workers(tmp_path, num_workers=1)
    weight = torch.randn(10_000)
    parts = [alone.write_part(1, name, snapshot({"w": weight})) for name in ("shared", "worker-0")]
    found = alone.commit(1, parts)
    assert torch.equal(alone.load(found, "shared")["w"], weight)
