from __future__ import annotations

import io
import itertools
import os
import re

import pytest
from tests.unit.observe.synthetic import THREE, sixteen, streams

from motet.events import Event, JobEnded, JobStarted, RunEnded, RunStarted, SyncEnded, TurnEnded
from motet.observe import Progress

CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


class Screen:
    """What a terminal shows of a text with colours, cursor-up and erase-below: no more of it is used."""

    def __init__(self, text: str) -> None:
        self.lines: list[str] = [""]
        self.row = 0
        position = 0
        for match in CONTROL.finditer(text):
            self._print(text[position : match.start()])
            if match[2] == "A":
                self.row -= int(match[1])
                assert self.row >= 0, "the cursor left the screen"
            elif match[2] == "J":
                del self.lines[self.row + 1 :]
                self.lines[self.row] = ""
            else:
                assert match[2] == "m", match[0]
            position = match.end()
        self._print(text[position:])

    def _print(self, text: str) -> None:
        for index, piece in enumerate(text.replace("\r", "").split("\n")):
            if index:
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
            self.lines[self.row] += piece


def show(events: list[Event], **options: object) -> str:
    stream = io.StringIO()
    progress = Progress(stream, **options)  # type: ignore[arg-type]
    for event in events:
        progress.observe(event)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", "40")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def test_live_rows_show_state_turns_and_values() -> None:
    events = streams(THREE)[0]
    half = next(i for i, event in enumerate(events) if event.time > events[0].time + 12)
    screen = Screen(show(events[:half], live=True, width=120))
    rows = [line for line in screen.lines if line.strip()]
    assert rows[0].split() == ["job", "turns", "rate", "left", "state", "latest"]
    by_name = {row.split()[0]: row for row in rows[1:4]}
    assert set(by_name) == set(THREE)
    for row in by_name.values():
        assert re.search(r"1\d\d/400 +1\d\.\d/s +0:1\d", row), row
        assert re.search(r"loss [012]\.\d+", row)
    assert sum("computing" in row for row in by_name.values()) == 1, "one job computes at a time"
    assert sum("gradients in flight" in row for row in by_name.values()) == 2
    assert re.search(
        r"^0:1[12] · 2 workers · efficiency 0\.9\d · sync hidden \d\d % · compute busy \d\d % · network busy \d\d %$",
        rows[4].rstrip(),
    )


def test_lines_scroll_above_the_rows() -> None:
    stream = io.StringIO()
    progress = Progress(stream, live=True, width=100)
    printed = []
    for number, event in enumerate(streams(THREE)[0][:-1]):
        progress.observe(event)
        if number % 7 == 3:
            printed.append(f"[gpt] line {number}")
            progress.print_line(printed[-1])
    lines = [line for line in Screen(stream.getvalue()).lines if line.strip()]
    assert [line for line in lines if line.startswith("[gpt]")] == printed
    assert sum(line.startswith("job ") for line in lines) == 1, "old rows are erased"
    assert lines.index(printed[-1]) < next(i for i, line in enumerate(lines) if line.startswith("job "))


def test_the_stream_prints_whole_lines_above() -> None:
    progress = Progress(stream := io.StringIO(), live=True, width=100)
    progress.observe(streams(THREE)[0][0])
    above = progress.as_stream()
    assert not above.isatty()
    above.write("half a ")
    assert "half" not in stream.getvalue()
    above.write("line\nand more\n")
    lines = Screen(stream.getvalue()).lines
    assert lines[:2] == ["half a line", "and more"]


def test_no_row_is_wider_than_the_terminal() -> None:
    for width in (40, 60, 79, 200):
        text = show(streams(sixteen())[0][:800], live=True, width=width)
        assert max(len(line) for line in Screen(text).lines) <= width


def test_more_jobs_than_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "12")
    lines = [line for line in Screen(show(streams(sixteen())[0][:900], live=True, width=100)).lines if line.strip()]
    frame = lines[max(i for i, line in enumerate(lines) if line.startswith("job ")) :]
    assert len(frame) <= 11
    assert any(re.match(r"… and 11 jobs more: ", line) for line in frame), frame


def test_the_last_frame_stays_and_shows_how_jobs_ended() -> None:
    text = show(streams(sixteen())[0], live=True, width=120)
    lines = Screen(text).lines
    failed = next(line for line in lines if "lr0.0001-width64" in line and "17/120" in line)
    assert "failed" in failed
    assert "motet: lr0.0001-width64 failed after 17 turns: train.py:41: ValueError: loss is <nan>" in lines


def test_drawing_is_limited() -> None:
    text = show(streams(THREE)[0], live=True, width=100)
    frames = text.count("efficiency")
    assert 5 < frames <= 4 * 26


def test_plain_lines_come_every_two_seconds() -> None:
    lines = show(streams(THREE)[0]).splitlines()
    assert "\x1b" not in "".join(lines)
    progress = [line for line in lines if "|" in line]
    moments = [int(line.split("| 0:")[1][:2]) for line in progress]
    assert all(1 <= later - earlier <= 2 for earlier, later in itertools.pairwise(moments[:-1])), moments
    assert re.match(
        r"motet: gpt 1\d\d/400 \(1\d\.\d/s, loss [\d.]+, lr [\d.e-]+\), recommender .*, conv .* "
        r"\| 0:1\d · 2 workers · eff",
        next(line for line in progress if "| 0:1" in line),
    ), progress
    assert "gpt 400/400 finished" in progress[-1]


def test_a_long_run_fills_no_log() -> None:
    diverged_text = RunStarted(time=0.0, unix_time=0.0, worker=0, num_workers=2, jobs=("a",), order=("a",))
    turns = [
        TurnEnded(time=float(second), job="a", turn=second, begin=second - 1.0, synchronizing=False)
        for second in range(1, 100_000)
    ]
    moments = re.findall(r"\| ([\d:]+) ", show([diverged_text, *turns]))
    assert moments[:4] == ["0:02", "0:04", "0:06", "0:08"]  # a turn takes a second
    assert len({moment.rpartition(":")[0] for moment in moments[-100:]}) == 100  # one a minute
    assert len(moments) < 1800


def test_plain_lines_of_many_jobs_are_short() -> None:
    progress = [line for line in show(streams(sixteen())[0]).splitlines() if "| 0:1" in line]
    assert re.match(r"motet: \d+ going on, 1 failed, 1 pruned, 1 finished, \d+ turns \| ", progress[0]), progress[0]


def test_quiet_says_only_what_went_wrong() -> None:
    lines = show(streams(sixteen())[0], quiet=True, live=True).splitlines()
    assert lines == [
        "motet: lr0.0001-width64 failed after 17 turns: train.py:41: ValueError: loss is <nan>",
        "motet: metrics of worker 1 were not recorded",
    ]


def test_other_workers_are_silent() -> None:
    assert show(streams(THREE)[1], live=True) == ""
    assert show(streams(THREE)[1]) == ""


def test_a_length_that_is_learned_later_resets_nothing() -> None:
    events: list[Event] = [
        RunStarted(0.0, 0.0, 0, 2, ("a",), ("a",)),
        JobStarted(0.0, "a", None),
        TurnEnded(1.0, "a", 1, 0.0, True),
        JobStarted(1.1, "a", 50),
        SyncEnded(9.0, "a", 1, 0.5, 2.0, 1.2, 0.0, 1, 1),
        JobEnded(12.0, "a", "finished", 1, None),
        RunEnded(12.0, 12.0),
    ]
    assert "a 1/50 finished" in show(events)


def test_what_a_job_does_after_its_last_turn_is_no_turn() -> None:
    events: list[Event] = [
        RunStarted(0.0, 0.0, 0, 2, ("a",), ("a",)),
        JobStarted(0.0, "a", 1),
        TurnEnded(1.0, "a", 1, 0.0, True),
        SyncEnded(2.0, "a", 1, 0.5, 2.0, 1.2, 0.0, 1, 1),
        TurnEnded(9.0, "a", 2, 2.0, False),
        RunEnded(12.0, 12.0),
    ]
    assert re.findall(r"a \d/\d", show(events)) == ["a 1/1", "a 1/1", "a 1/1"]


def test_a_terminal_without_unicode_is_no_reason_to_fail() -> None:
    raw = io.BytesIO()
    progress = Progress(io.TextIOWrapper(raw, encoding="ascii"), live=True, width=100)
    for event in streams(THREE)[0]:
        progress.observe(event)
    assert b"efficiency" in raw.getvalue()


def test_a_forked_child_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress(stream := io.StringIO(), live=True, width=100)
    for event in streams(THREE)[0][:50]:
        progress.observe(event)
    before = stream.getvalue()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    progress.print_line("from a data loader")
    assert stream.getvalue() == before + "from a data loader\n"
