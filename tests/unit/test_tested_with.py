"""The table of what was tested: a set that is run again with the same versions gets its row anew."""

from __future__ import annotations

from pathlib import Path

from tests.versions import BEGIN, END, HEAD, SETS, Outcome, key, row, written

PAGE = f"# Title\n\n{BEGIN}{HEAD}{END}\n\nBelow.\n"
QUICK = SETS["quick"][0]


def test_rows_are_sorted_and_replaced() -> None:
    page = PAGE
    for torch, python, result in [
        ("2.15.0+cu132", "3.13.0", "1 passed"),
        ("2.9.0", "3.11.7", "2 passed"),
        ("2.11.0+cu130", "3.12.1", "3 passed"),
        ("2.11.0+cu130", "3.9.1", "4 passed"),
        ("2.15.0+cu132", "3.13.0", "5 passed, 1 failures"),
    ]:
        page = written(page, f"| {torch} | {python} | Linux x86_64, CPU | {QUICK} | 2026-01-01 | {result} |")
    rows = page.partition(HEAD)[2].partition(END)[0].splitlines()
    assert [line.split("|")[-2].strip() for line in rows] == [
        "2 passed",
        "4 passed",
        "3 passed",
        "5 passed, 1 failures",
    ]
    assert page.startswith("# Title\n\n")
    assert page.endswith(f"{END}\n\nBelow.\n")


def test_a_row_of_this_very_process() -> None:
    line = row("names", Outcome("3 passed", well=True))
    assert key(line) == key(line.replace("3 passed", "4 passed"))
    assert key(line) < key(row("quick", Outcome("3 passed", well=True)))


def test_the_page_has_the_table() -> None:
    page = Path(__file__).parent.parent.parent / "docs/reference/tested-with.md"
    assert f"{BEGIN}{HEAD}" in page.read_text(encoding="utf-8")
    assert END in page.read_text(encoding="utf-8")
