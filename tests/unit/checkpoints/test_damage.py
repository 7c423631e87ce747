"""Whatever happened to the files: a good checkpoint, the one before, or a CheckpointError."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.checkpoints.test_files import check_good, workers, write

from motet.checkpoints import Checkpoints
from motet.checkpoints.manifest import sealed
from motet.errors import CheckpointError

FILES = ["manifest.json", "shared.pt", "worker-0.pt", "worker-1.pt"]
NEW, OLD = "turn-00000002", "turn-00000001"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two checkpoints each of two jobs. Not to be changed."""
    directory = tmp_path_factory.mktemp("whole")
    for job in ("narrow", "wide"):
        gang = workers(directory, job)
        write(gang, 1)
        write(gang, 2)
    return directory


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of ``whole`` to be damaged."""
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


class Copied:
    """A copy of ``whole`` for one example."""

    def __init__(self, whole: Path) -> None:
        self.path = Path(tempfile.mkdtemp(dir=whole.parent))
        shutil.copytree(whole / "narrow", self.path / "narrow", copy_function=os.link)  # what is damaged is unlinked

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path)


position = st.floats(0, 1, exclude_max=True)
damages = st.one_of(
    st.tuples(st.just("truncate"), position),
    st.tuples(st.just("flip"), position, st.integers(0, 7)),
    st.tuples(st.just("overwrite"), position, st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("append"), st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("replace"), st.binary(max_size=200)),
    st.tuples(st.sampled_from(["delete", "folder", "older", "other job's", "dangling link", "link to itself"])),
)


def damage(whole: Path, job: Path, checkpoint: str, file: str, what: tuple[Any, ...]) -> bool:
    """Do it; return whether the file is another one now."""
    path = job / checkpoint / file
    before = path.read_bytes()
    at = int(what[1] * len(before)) if len(what) > 1 and isinstance(what[1], float) else 0
    path.unlink()
    match what:
        case ("truncate", _):
            path.write_bytes(before[:at])
        case ("flip", _, bit):
            flipped = bytes([before[at] ^ (1 << bit)]) if before else b""
            path.write_bytes(before[:at] + flipped + before[at + 1 :])
        case ("overwrite", _, data):
            path.write_bytes(before[:at] + data + before[at + len(data) :])
        case ("append", data):
            path.write_bytes(before + data)
        case ("replace", data):
            path.write_bytes(data)
        case ("older",):
            shutil.copy(whole / "narrow" / OLD / file, path)
        case ("other job's",):
            shutil.copy(whole / "wide" / checkpoint / file, path)
        case ("folder",):
            path.mkdir()
        case ("dangling link",):
            path.symlink_to("nowhere")
        case ("link to itself",):
            path.symlink_to(path)
        case _:
            assert what == ("delete",)
    return not path.is_file() or path.read_bytes() != before


@settings(max_examples=300, deadline=None)
@given(file=st.sampled_from(FILES), what=damages)
@example(file="manifest.json", what=("flip", 0.1, 5))
def test_a_damaged_newest_one_is_named_and_the_one_before_is_used(
    whole: Path, file: str, what: tuple[Any, ...]
) -> None:
    with Copied(whole) as directory:
        damaged = damage(whole, directory / "narrow", NEW, file, what)
        (checkpoints, _) = workers(directory)
        found = checkpoints.latest()
        check_good(checkpoints, found, 1 if damaged else 2)
        assert len(checkpoints.problems) == damaged
        assert all(NEW in problem for problem in checkpoints.problems)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([NEW, OLD]), st.sampled_from(FILES), damages), max_size=6))
def test_a_good_one_or_an_error(whole: Path, what: list[tuple[str, str, tuple[Any, ...]]]) -> None:
    with Copied(whole) as directory:
        for checkpoint, file, each in what:
            if (directory / "narrow" / checkpoint / file).is_file():
                damage(whole, directory / "narrow", checkpoint, file, each)
        (checkpoints, _) = workers(directory)
        problem = ""
        try:
            found = checkpoints.latest()
        except CheckpointError as error:
            problem = str(error)
        if problem:
            assert NEW in problem
            assert OLD in problem
            assert f"remove {checkpoints.directory}" in problem
        else:
            assert found is not None
            check_good(checkpoints, found, found.turn)


@settings(max_examples=150, deadline=None)
@given(file=st.sampled_from(FILES[1:]), what=damages)
def test_damage_after_it_was_found_is_seen_when_it_is_loaded(whole: Path, file: str, what: tuple[Any, ...]) -> None:
    with Copied(whole) as directory:
        (checkpoints, _) = workers(directory)
        found = checkpoints.open(NEW)
        if damage(whole, directory / "narrow", NEW, file, what):
            with pytest.raises(CheckpointError, match=NEW):
                checkpoints.load(found, file.removesuffix(".pt"))


def reseal(path: Path, changes: dict[str, Any]) -> None:
    """Change fields of a manifest so that its checksum fits again, as no accident would."""
    body = json.loads((path / "manifest.json").read_bytes())
    del body["sha256"]
    (path / "manifest.json").unlink()
    (path / "manifest.json").write_bytes(sealed(body | changes))


def test_another_format_version_is_reported(copy: Path) -> None:
    reseal(copy / "narrow" / NEW, {"version": 1})
    (checkpoints, _) = workers(copy)
    check_good(checkpoints, checkpoints.latest(), 1)
    assert "format version 1, this Motet reads 2" in checkpoints.problems[0]


def test_a_folder_renamed_to_another_turn_is_reported(copy: Path) -> None:
    os.rename(copy / "narrow" / NEW, copy / "narrow" / "turn-00000003")
    (checkpoints, _) = workers(copy)
    check_good(checkpoints, checkpoints.latest(), 1)
    assert "that of turn 2" in checkpoints.problems[0]


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
parts = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["shared", "worker-0", "worker-1", "worker-2", "../../wide/shared"]) | json_values,
        "size_bytes": st.integers() | json_values,
        "xxh3_128": st.text() | json_values,
    }
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["format", "version", "job", "turn", "num_workers", "parts", "more"]), json_values)
    | st.fixed_dictionaries({"parts": st.lists(parts | json_values, max_size=4)})
)
def test_any_manifest(whole: Path, changes: dict[str, Any]) -> None:
    with Copied(whole) as directory:
        reseal(directory / "narrow" / NEW, changes)
        (checkpoints, _) = workers(directory)
        found = checkpoints.latest()
        assert found is not None
        check_good(checkpoints, found, found.turn)


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=300) | st.text(max_size=300).map(str.encode) | json_values.map(lambda v: json.dumps(v).encode())
)
@example(b"[" * 100_000)
@example(b"\xff\xfe")
@example(b'{"turn": ' + b"9" * 5000 + b"}")
@example(b'{"format": "motet checkpoint", "version": 2}')
def test_any_bytes_as_manifest(whole: Path, data: bytes) -> None:
    with Copied(whole) as directory:
        manifest = directory / "narrow" / NEW / "manifest.json"
        manifest.unlink()
        manifest.write_bytes(data)
        (checkpoints, _) = workers(directory)
        check_good(checkpoints, checkpoints.latest(), 1)


def forge(directory: Path, data: bytes) -> Checkpoints:
    """Put ``data`` in the place of a part, with a manifest that says it belongs there."""
    path = directory / "narrow" / NEW
    (path / "shared.pt").unlink()
    (path / "shared.pt").write_bytes(data)
    listed = json.loads((path / "manifest.json").read_bytes())["parts"]
    for part in listed:
        if part["name"] == "shared":
            part |= {"size_bytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    reseal(path, {"parts": listed})
    (checkpoints, _) = workers(directory)
    return checkpoints


@settings(max_examples=100, deadline=None)
@given(what=damages.filter(lambda what: what[0] in ("truncate", "flip", "overwrite", "append", "replace")))
def test_bytes_that_torch_cannot_load(whole: Path, what: tuple[Any, ...]) -> None:
    with Copied(whole) as directory:
        damage(whole, directory / "narrow", NEW, "shared.pt", what)
        checkpoints = forge(directory, (directory / "narrow" / NEW / "shared.pt").read_bytes())
        found = checkpoints.latest()
        assert found is not None
        with contextlib.suppress(CheckpointError):  # some of torch's bytes do not matter
            checkpoints.load(found, "shared")


class Malicious:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (setattr, (Malicious, "ran", True))


@pytest.fixture
def not_run() -> Iterator[None]:
    yield
    assert not Malicious.ran


@pytest.mark.usefixtures("not_run")
@pytest.mark.parametrize("form", ["archive", "pickle"])
def test_loading_runs_no_code(copy: Path, tmp_path: Path, form: str) -> None:
    file = tmp_path / "evil.pt"
    if form == "archive":
        torch.save({"weight": Malicious()}, file)
    else:
        file.write_bytes(pickle.dumps(Malicious()))
    checkpoints = forge(copy, file.read_bytes())
    found = checkpoints.latest()
    assert found is not None
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        checkpoints.load(found, "shared")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "narrow").touch()
    (checkpoints, _) = workers(tmp_path)
    with pytest.raises(CheckpointError, match="cannot look"):
        checkpoints.latest()
    with pytest.raises(CheckpointError, match="could not be written"):
        write(workers(tmp_path), 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)))
@example(["turn-00000003", "turn-99999999999999999999", "turn-٠٠٠٠٠٠٠٣", "turn-00000002.x", ".writing-x"])
@example(["turn-00000002.1"])
def test_other_things_in_the_folder(whole: Path, others: list[str]) -> None:
    with Copied(whole) as directory:
        for name in others:
            if name not in (".", "..", NEW, OLD):
                (directory / "narrow" / name).write_bytes(b"")
        (checkpoints, _) = workers(directory)
        check_good(checkpoints, checkpoints.latest(), 2)
