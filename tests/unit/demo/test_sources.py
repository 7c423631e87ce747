"""What the demo learns from is the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from motet.demo.images import load_images
from motet.demo.language import load_text, windows
from motet.demo.pairs import hits, load_pairs
from motet.demo.sources import functions, python_files

MODULE = """
import os

def outer(a, b=os.sep):
    def inner(c):
        return a.first(c)
    return inner(b)

class Holder:
    if os.name:
        async def get(self): return self.value
    @property
    def both(self): return self.old
    @both.setter
    def both(self, new): self.old = new
"""


def test_functions_lists_identifiers_in_order_of_appearance(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(MODULE)
    found = functions((path,))
    assert list(found) == [("example", "", "outer"), ("example", "Holder", "get"), ("example", "Holder", "both")]
    assert sorted(found["example", "", "outer"]) == ["a", "b", "c", "first", "inner", "os", "sep"]
    assert found["example", "Holder", "get"] == ("self", "value")
    assert sorted(found["example", "Holder", "both"]) == ["both", "new", "old", "property", "self", "setter"]


def test_python_files_are_many_sorted_and_the_same_each_time() -> None:
    files = python_files()
    assert list(files) == sorted(files) == list(python_files())
    assert {"ast.py", "argparse.py", "typing.py"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < 10_000_000, "so that a worker starts fast"


def test_python_without_its_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="without its library's source"):
        python_files()


def test_images_are_split_without_overlap() -> None:
    learned, held_out = load_images()
    assert len(learned) + len(held_out) == 1797
    assert learned.tensors[0].shape[1:] == (1, 8, 8)
    assert 0 <= float(learned.tensors[0].min()) < float(learned.tensors[0].max()) <= 1


def test_held_out_text_is_not_learned_from() -> None:
    learned, held_out = load_text()
    everything = b"".join(path.read_bytes() for path in python_files())
    assert len(learned) + len(held_out) == len(everything)
    assert 0.05 < len(held_out) / len(everything) < 0.2
    probe = bytes(held_out[:2000].tolist())
    assert probe in everything
    assert probe not in bytes(learned.tolist())


def test_windows_ask_for_the_byte_that_follows() -> None:
    inputs, targets = windows(torch.arange(20, dtype=torch.uint8), torch.tensor([0, 7]), 4)
    assert inputs.tolist() == [[0, 1, 2, 3], [7, 8, 9, 10]]
    assert targets.tolist() == [[1, 2, 3, 4], [8, 9, 10, 11]]


def test_held_out_pairs_are_neither_learned_nor_in_the_context() -> None:
    pairs = load_pairs(seed=0, files=python_files()[:30])
    held_out = {tuple(pair) for pair in pairs.held_out.tolist()}
    learned = {tuple(pair) for pair in pairs.learned.tolist()}
    assert [function for function, _ in pairs.held_out.tolist()] == list(range(len(pairs.places)))
    assert not held_out & learned
    for function, row in enumerate(pairs.context.tolist()):
        known = [identifier for identifier in row if identifier != pairs.num_identifiers]
        assert known
        assert {(function, identifier) for identifier in known} <= learned
    assert int(pairs.places.max()) < pairs.num_places
    assert not torch.equal(load_pairs(seed=1, files=python_files()[:30]).held_out, pairs.held_out)


def test_hits_leave_out_what_is_known() -> None:
    pairs = load_pairs(seed=0, files=python_files()[:30])
    some = torch.arange(5, 9)
    scores = torch.zeros(len(some), pairs.num_identifiers)
    for row, function in enumerate(some.tolist()):
        scores[row, pairs.learned[pairs.learned[:, 0] == function, 1]] = 2.0  # known: would fill the best ten
        scores[row, pairs.held_out[function, 1]] = 1.0
    assert hits(scores, pairs, some) == len(some)
    assert hits(torch.rand(len(some), pairs.num_identifiers, generator=torch.manual_seed(0)), pairs, some) < len(some)


def test_pairs_do_not_depend_on_the_hashing_of_strings() -> None:
    code = (
        "import hashlib, sys; from motet.demo.pairs import load_pairs; from motet.demo.sources import python_files\n"
        "pairs = load_pairs(seed=0, files=python_files()[:30])\n"
        "sys.stdout.write(hashlib.sha256(repr([field.tolist() if hasattr(field, 'tolist') else field"
        " for field in pairs]).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 64
