"""A file in memory, mapped privately: the kernel copies what is written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from motet.frozen import pages

NUM_BYTES = 5 * pages.PAGE + 100


@pytest.fixture
def file() -> Iterator[int]:
    contents = torch.arange(NUM_BYTES).to(torch.uint8)
    file = pages.new_file(pages.whole_pages(NUM_BYTES))
    pages.write(file, 0, contents.data_ptr(), NUM_BYTES)
    pages.seal(file)
    yield file
    os.close(file)


def mapped(file: int) -> torch.Tensor:
    return torch.frombuffer(pages.map_block(file, 0, NUM_BYTES), dtype=torch.uint8)


def test_a_write_reaches_neither_the_file_nor_another_mapping(file: int) -> None:
    one, other = mapped(file), mapped(file)
    one.add_(1)
    assert torch.equal(other, torch.arange(NUM_BYTES).to(torch.uint8))
    assert torch.equal(mapped(file), other)
    with pytest.raises(OSError, match="not permitted"):
        os.pwrite(file, b"x", 0)


def test_written_is_what_was_written_all_over(file: int) -> None:
    one = mapped(file)
    one.sum()
    assert not pages.is_written(one.data_ptr(), NUM_BYTES)
    one[:10] = 0
    assert not pages.is_written(one.data_ptr(), NUM_BYTES)
    one.add_(1)
    assert pages.is_written(one.data_ptr(), NUM_BYTES)


def test_a_block_becomes_ordinary_memory_where_it_is(file: int) -> None:
    one = mapped(file)
    one.add_(1)
    before, address = one.clone(), one.data_ptr()
    assert pages.make_own(address, NUM_BYTES, lambda step: [step()])
    assert torch.equal(one, before)
    rows = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    row = next(row for row in rows if int(row.split("-")[0], 16) <= address < int(row.split("-")[1].split()[0], 16))
    assert "motet" not in row
    one.zero_()
    assert torch.equal(mapped(file) + 1, before)


def test_a_block_that_may_have_been_written_to_meanwhile_stays(file: int) -> None:
    one = mapped(file)
    before = one.clone()
    assert not pages.make_own(one.data_ptr(), NUM_BYTES, lambda step: None)
    assert torch.equal(one, before)
    assert pages.make_own(one.data_ptr(), NUM_BYTES, lambda step: [step()])


def test_a_file_that_cannot_be_made_is_closed() -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Invalid argument"):
        pages.new_file(-1)
    assert os.listdir("/proc/self/fd") == before


def test_zeros() -> None:
    block = torch.zeros(10_000, dtype=torch.uint8)
    assert pages.is_zero(block.data_ptr(), 10_000)
    for place in (0, 1, 9_999):
        block[place] = 1
        assert not pages.is_zero(block.data_ptr(), 10_000)
        block[place] = 0


def test_an_allocator_that_is_not_counted_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pages.allocated_bytes()
    monkeypatch.setattr(pages, "_allocated", lambda: 7)
    pages._counts_all.cache_clear()
    try:
        assert pages.allocated_bytes() is None
    finally:
        pages._counts_all.cache_clear()


def test_equal_bytes() -> None:
    one, other = torch.tensor([0.0, float("nan")]), torch.tensor([0.0, float("nan")])
    assert pages.same_bytes(one.data_ptr(), other.data_ptr(), 8)
    other[0] = -0.0
    assert not pages.same_bytes(one.data_ptr(), other.data_ptr(), 8)
