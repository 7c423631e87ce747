"""What jobs print arrives whole, with their names, on real streams."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from motet.output.streams import JobLog, JobStream, Terminal


class Screen(io.StringIO):
    """A terminal to look at."""

    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[JobLog]:
    log = JobLog(tmp_path / "log.txt")
    yield log
    log.close()


def test_a_line_appears_when_it_is_whole() -> None:
    echo = io.StringIO()
    stream = JobStream("a", echo=echo)
    print("one", "two", end="", file=stream, flush=True)
    assert echo.getvalue() == ""
    print(" three\nfour", file=stream)
    assert echo.getvalue() == "[a] one two three\n[a] four\n"
    print(file=stream)
    assert echo.getvalue().endswith("[a] four\n[a] \n")


@pytest.mark.parametrize("end", ["finish", "close"])
def test_the_last_line_needs_no_end(end: str) -> None:
    echo = io.StringIO()
    stream = JobStream("a", echo=echo)
    stream.write("last")
    getattr(stream, end)()
    assert echo.getvalue() == "[a] last\n"


def test_late_writers_still_can_after_finish(tmp_path: Path, log: JobLog) -> None:
    echo = io.StringIO()
    stream = JobStream("a", echo=echo, log=log)
    stream.finish()
    log.close()
    print("late", file=stream)
    assert echo.getvalue() == "[a] late\n"
    assert (tmp_path / "log.txt").read_bytes() == b""


def test_the_log_gets_everything_raw_and_the_echo_may_be_absent(tmp_path: Path, log: JobLog) -> None:
    out, err = JobStream("a", log=log), JobStream("a", log=log)
    out.write("\r 10%|#\r 20%|##\n")
    err.write("é\n")
    out.buffer.write(b"\xff\n")
    out.write("half")
    log.close()
    assert (tmp_path / "log.txt").read_bytes() == "\r 10%|#\r 20%|##\né\n".encode() + b"\xff\nhalf"


def test_bytes_and_broken_characters() -> None:
    echo = io.StringIO()
    stream = JobStream("a", echo=echo)
    stream.buffer.write("naïve ".encode()[:3])
    stream.buffer.write("naïve ".encode()[3:])
    stream.buffer.write(b"\xff\n")
    stream.write("\udc80\n")
    assert echo.getvalue() == "[a] naïve \ufffd\n[a] \\udc80\n"


def test_an_echo_that_cannot_encode_is_not_given_up() -> None:
    raw = io.BytesIO()
    echo = io.TextIOWrapper(raw, encoding="ascii")
    print("→ 5", file=JobStream("a", echo=echo))
    assert raw.getvalue() == b"[a] \\u2192 5\n"


def test_a_bar_is_rewritten_in_place_and_ended_before_another_jobs_line() -> None:
    screen, terminal = Screen(), Terminal()
    a, b = (JobStream(name, terminal=terminal, echo=screen) for name in "ab")
    a.write("\r10%")
    a.write("\r9%")
    print("hello", file=b)
    a.write("\r20%")  # too soon after the other's line: left out
    a.write("\r100%\n")
    assert screen.getvalue() == "[a] 10%\r[a] 9% \n[b] hello\n[a] 100%\n"


def test_two_bars_do_not_flood_the_terminal(clock: Clock) -> None:
    screen = Screen()
    terminal = Terminal(update_seconds=5, clock=clock)
    a, b = (JobStream(name, terminal=terminal, echo=screen) for name in "ab")
    for percent in range(100):
        clock.now += 0.1
        a.write(f"\r{percent}%")
        b.write(f"\r{percent}%")
    assert screen.getvalue().count("\n") <= 5
    a.write("\n")
    b.write("\n")
    assert screen.getvalue().splitlines()[-2:] == ["[a] 99%", "[b] 99%"]


def test_where_the_echo_is_no_terminal_a_bar_shows_now_and_then_and_its_end(clock: Clock) -> None:
    echo = io.StringIO()
    stream = JobStream("a", terminal=Terminal(update_seconds=5, clock=clock), echo=echo)
    for percent in range(101):
        stream.write(f"\r{percent}%")
        clock.now += 0.125
    stream.write("\n")
    assert echo.getvalue() == "[a] 0%\n[a] 40%\n[a] 80%\n[a] 100%\n"
    assert "\r" not in echo.getvalue()


def test_a_bar_that_removes_itself_leaves_nothing(clock: Clock) -> None:
    echo = io.StringIO()
    stream = JobStream("a", terminal=Terminal(clock=clock), echo=echo)
    stream.write("\rbar")
    stream.write("\r   \r")
    stream.write("text\n")
    assert echo.getvalue() == "[a] bar\n[a] text\n"


def test_ends_of_line_of_other_systems() -> None:
    echo = io.StringIO()
    stream = JobStream("a", echo=echo)
    stream.write("one\r\ntwo\r")
    stream.write("\n")
    stream.write("three\n")
    assert [line.rstrip() for line in echo.getvalue().splitlines() if line] == [
        "[a] one",
        "[a] two",
        "[a] two",
        "[a] three",
    ]


def test_stacked_bars_do_not_flood(clock: Clock) -> None:
    echo = io.StringIO()
    stream = JobStream("a", terminal=Terminal(update_seconds=5, clock=clock), echo=echo)
    for step in range(100):
        stream.write(f"\router {step}")
        stream.write("\n")
        stream.write(f"\rinner {step}")
        stream.write("\x1b[A")
    stream.write("\n\n")
    print("done", file=stream)
    lines = echo.getvalue().splitlines()
    assert len(lines) < 10
    assert lines[-1] == "[a] done"


def test_one_line_without_end_does_not_grow_for_ever() -> None:
    echo = io.StringIO()
    stream = JobStream("a", echo=echo)
    for _ in range(70):
        stream.write("x" * 1024)
    assert len(echo.getvalue()) > 1 << 16


def test_streams_of_one_job_end_each_others_bars() -> None:
    out, err, terminal = Screen(), Screen(), Terminal()
    stdout = JobStream("a", terminal=terminal, echo=out)
    stderr = JobStream("a", terminal=terminal, echo=err)
    stderr.write("\r5%")
    print("x", file=stdout)
    assert err.getvalue() == "[a] 5%\n"
    assert out.getvalue() == "[a] x\n"


def test_threads_never_mix_lines() -> None:
    echo = io.StringIO()
    terminal = Terminal()
    streams = [JobStream(name, terminal=terminal, echo=echo) for name in "abcd"]

    def work(stream: JobStream) -> None:
        for i in range(200):
            stream.write(f"line {i}\n")

    threads = [threading.Thread(target=work, args=(stream,)) for stream in streams for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = echo.getvalue().splitlines()
    assert sorted(lines) == sorted(f"[{n}] line {i}" for n in "abcd" for i in range(200) for _ in range(2))


def test_a_full_disk_is_reported_once() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    notices: list[str] = []
    echo = io.StringIO()
    stream = JobStream("a", echo=echo, log=JobLog(Path("/dev/full"), report=notices.append))
    print("one", file=stream)
    print("two", file=stream)
    stream.close()
    assert echo.getvalue() == "[a] one\n[a] two\n"
    assert len(notices) == 1
    assert "/dev/full" in notices[0]
    assert "No space" in notices[0]


def test_a_log_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    notices: list[str] = []
    log = JobLog(tmp_path / "missing" / "log.txt", report=notices.append)
    print("one", file=JobStream("a", log=log))
    assert len(notices) == 1


def test_a_closed_pipe_is_reported_once_and_the_log_goes_on(tmp_path: Path, log: JobLog) -> None:
    notices: list[str] = []
    read_end, write_end = os.pipe()
    os.close(read_end)
    echo = os.fdopen(write_end, "w")
    stream = JobStream("a", terminal=Terminal(report=notices.append), echo=echo, log=log)
    print("one", file=stream)
    print("two", file=stream)
    with pytest.raises(BrokenPipeError):  # what is still buffered
        echo.close()
    assert len(notices) == 1
    assert (tmp_path / "log.txt").read_text() == "one\ntwo\n"


def test_a_closed_echo_is_reported_once() -> None:
    notices: list[str] = []
    echo = io.StringIO()
    stream = JobStream("a", terminal=Terminal(report=notices.append), echo=echo)
    echo.close()
    stream.write("\r1%")
    print("one", file=stream)
    assert len(notices) == 1


def test_a_forked_child_does_not_repeat_what_its_parent_began(tmp_path: Path, log: JobLog) -> None:
    with open(tmp_path / "echo", "w") as echo:
        stream = JobStream("a", echo=echo, log=log)
        stream.write("begun ")
        pid = os.fork()
        if pid == 0:
            try:
                print("child", file=stream)
                stream.flush()
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print("parent", file=stream)
    assert (tmp_path / "echo").read_text() == "[a] child\n[a] begun parent\n"
    assert (tmp_path / "log.txt").read_text() == "begun child\nparent\n"


_ASK_ALL = """
import argparse, faulthandler, logging, subprocess, sys, warnings
from rich.console import Console
from motet.output.streams import JobStream

sys.stdout = sys.stderr = stream = JobStream("a", echo=sys.__stdout__)
assert not stream.isatty() and stream.encoding == "utf-8" and stream.writable() and not stream.readable()
stream.reconfigure(line_buffering=True)
print("printed")
sys.stdout.buffer.write(b"bytes\\n")
try:
    argparse.ArgumentParser(prog="train").parse_args(["--help"])
except SystemExit:
    pass
warnings.warn("warned")
logging.warning("logged")
Console().print("[bold]rich[/bold]")
faulthandler.enable()
faulthandler.dump_traceback()
subprocess.run([sys.executable, "-c", "print('child')"], stdout=sys.stdout, check=True)
print("last", end="")
"""


def test_what_the_standard_library_and_rich_ask_of_a_stream() -> None:
    ran = subprocess.run([sys.executable, "-c", _ASK_ALL], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    shown = ("printed", "bytes", "usage: train", "UserWarning: warned", "WARNING:root:logged", "rich", "last")
    for line in shown:
        assert re.search(rf"^\[a\] .*{line}", ran.stdout, re.MULTILINE), line
    # These write to the descriptor, without a name.
    assert re.search(r'^  File "<string>", line \d+ in <module>$', ran.stdout, re.MULTILINE)
    assert re.search(r"^child$", ran.stdout, re.MULTILINE)


def test_fileno_without_an_echo_is_the_logs(log: JobLog) -> None:
    assert JobStream("a", log=log).fileno() == log.fileno()
    with pytest.raises(io.UnsupportedOperation):
        JobStream("a", echo=io.StringIO()).fileno()


def _all_of(reader: int) -> str:
    """What a terminal showed until its writer closed it. One read may return a part of it only:
    the kernel hands over what is written to a terminal in pieces, later."""
    parts = []
    # an OSError (EIO) is Linux's way to say that the writer has gone
    with os.fdopen(reader, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while part := terminal.read(1 << 16):
            parts.append(part)
    return b"".join(parts).decode()


def test_real_tqdm_bars_on_a_real_terminal() -> None:
    tqdm = pytest.importorskip("tqdm")
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as echo:
        terminal = Terminal()
        a, b = (JobStream(name, terminal=terminal, echo=echo) for name in "ab")
        bar = tqdm.tqdm(total=3, file=a, mininterval=0, ascii=True, ncols=60)
        for _ in range(3):
            bar.update()
        print("hello", file=b)
        bar.close()
    screen = _all_of(reader)
    lines = [line.split("\r")[-1] for line in screen.replace("\r\n", "\n").split("\n")]
    assert lines[0].startswith("[a] 100%")
    assert lines[1] == "[b] hello"
    assert lines[2].startswith("[a] 100%")
