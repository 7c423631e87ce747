"""Tables fit the width that they are given; names that are shortened still differ where they did."""

from __future__ import annotations

import io

import pytest

from motet.events import JobStarted, OrderChanged, RunStarted
from motet.observe.progress import Progress
from motet.observe.text import cut, fitted, shortened

SWEEP = [f"resnet50-augmented-pretrained-lr{rate}-decay{decay}" for rate in (0.1, 0.01) for decay in (0.1, 0.2)]


@pytest.mark.parametrize("most", [12, 20, 30])
def test_shortened_names_keep_their_differing_ends(most: int) -> None:
    found = shortened(SWEEP, most)
    assert max(map(len, found.values())) <= most
    assert [name[-8:] for name in found.values()] == [name[-8:] for name in SWEEP]
    if most > 20:
        assert len(set(found.values())) == len(SWEEP)


def test_short_names_stay() -> None:
    assert shortened(["a", "lr0.1"], 12) == {"a": "a", "lr0.1": "lr0.1"}
    assert shortened([SWEEP[0]], 30)[SWEEP[0]] == "resnet50-…ained-lr0.1-decay0.1"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_table_fits(width: int) -> None:
    head = ["job", "status", "turns", "result", "compute", "sync", "hidden"]
    rows = [[name, "finished", "1000", "loss 0.25, " * 9, "100.1 s", "90.2 s", "80.3 s (89%)"] for name in SWEEP]
    lines = fitted([head, *rows], left={0, 1, 3}, flexible=3, spare=(5, 4, 6, 3), width=width)
    assert max(map(len, lines)) <= width
    assert all("finished" in line for line in lines[1:])
    assert ("compute" in lines[0]) == (width >= 100)


def test_without_a_width_nothing_is_cut() -> None:
    rows = [["job", "result"], ["x" * 90, "y" * 200]]
    assert fitted(rows, left={0, 1}, flexible=1, spare=(), width=None)[1] == "x" * 90 + "  " + "y" * 200
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"


@pytest.mark.parametrize("verbose", [False, True])
def test_changes_of_the_order_are_reported_if_asked_for_and_starts_always(verbose: bool) -> None:
    stream = io.StringIO()
    progress = Progress(stream, live=False, verbose=verbose)
    for event in (
        RunStarted(0.0, 0.0, 0, 2, ("a", "b"), ("a", "b")),
        JobStarted(0.1, "a", 10),
        OrderChanged(0.2, ("a", "b"), "the costs are known"),
    ):
        progress.observe(event)
    assert "motet: a starts up\n" in stream.getvalue()
    assert ("order changed: the costs are known" in stream.getvalue()) == verbose
