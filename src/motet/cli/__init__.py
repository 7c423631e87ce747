"""The command ``motet``: finds the subcommand, and turns errors into one message and an exit status.

A subcommand is a module of this package with a function ``main(argv) -> int`` that returns the exit status; enter it
in `COMMANDS`. It raises `MotetError` for what the user should know; `Parser` does so for what argparse finds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from motet.errors import CheckpointError, MotetError, UnsupportedError, UsageError
from motet.started_by import torchrun
from motet.suggest import did_you_mean
from motet.torch_versions import check

COMMANDS = {
    "run": ("motet.cli.run", "train several jobs at once on the same workers"),
    "plan": ("motet.cli.plan", "say what a run would take, in which order, and whether it pays"),
    "resume": ("motet.cli.resume", "go on with a run that was stopped, from its checkpoints"),
    "report": ("motet.cli.report", "rebuild a run's report and print its summary"),
    "completion": ("motet.cli.completion", "print what completes these commands in a shell"),
}
WITHOUT_TORCH = {"report", "completion"}
REFUSED, STOPPED, BROKEN = 2, 3, 4
_taken: dict[int, Callable[[int, object], None]] = {}


class Stopped(KeyboardInterrupt):
    """A batch system asked this process to stop before it had started any worker."""


class Parser(argparse.ArgumentParser):
    """A parser that raises `UsageError` instead of printing all options and ending the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or what the subcommand says; 2 for bad usage, 4 for the rest."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_closed_streams()
    try:
        with _stopped_before_the_start():
            return _main(words)
    except MotetError as error:
        sys.stderr.write(f"motet: {error}\n")
        wrong_from_the_start = isinstance(error, UsageError | UnsupportedError | CheckpointError)
        return REFUSED if wrong_from_the_start else BROKEN
    except Stopped as stopped:
        sys.stderr.write(f"motet: stopped by {stopped} before anything was started\n")
        return STOPPED
    except KeyboardInterrupt:
        sys.stderr.write("motet: interrupted before anything was started\n")
        return 130  # what shells say of a command that SIGINT ended
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): nothing more can be said, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _open_closed_streams() -> None:
    """Give this process the standard streams that whoever started it has closed; what they are given is nowhere.

    Otherwise the next file that anybody opens, a log or a socket, is taken for a standard stream.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(opened, True)
            if opened == number:
                setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))


@contextlib.contextmanager
def _stopped_before_the_start() -> Iterator[None]:
    """Raise `Stopped` where these signals would end this process without a word; workers have handlers of their own."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(signal.Signals(number).name)

    here = threading.current_thread() is threading.main_thread() and not torchrun(os.environ)
    numbers = (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2) if here else ()
    taken = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    _taken.update(dict.fromkeys(taken, stop))
    try:
        yield
    finally:
        leave_signals()


def leave_signals() -> None:
    """Let signals do to this process what they do by default, before a worker takes them in its own way."""
    while _taken:
        number, handler = _taken.popitem()
        if signal.getsignal(number) is handler:  # nobody has taken it over
            signal.signal(number, signal.SIG_DFL)


def _main(words: Sequence[str]) -> int:
    if not words or words[0] in {"-h", "--help", "help"}:
        sys.stdout.write(_help())
        return 0
    if words[0] in {"-V", "--version"}:
        from importlib.metadata import version

        sys.stdout.write(f"motet {version('motet')}\n")
        return 0
    if words[0] not in COMMANDS:
        raise UsageError(f"there is no command {words[0]!r}{did_you_mean(words[0], COMMANDS)} (see motet --help)")
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(f"the working directory is gone ({error.strerror}); change to another one") from None
    if sys.platform == "win32":
        raise UsageError("Motet does not run on Windows; use Linux, for instance in WSL 2")
    notice = check() if words[0] not in WITHOUT_TORCH else None
    # Torchrun may have started this command once a worker: it prints once a machine.
    if notice is not None and "--quiet" not in words and os.environ.get("LOCAL_RANK", "0") == "0":
        sys.stderr.write(f"motet: {notice}\n")
    module = importlib.import_module(COMMANDS[words[0]][0])
    return int(module.main(list(words[1:])))


def _help() -> str:
    lines = ["usage: motet COMMAND ...", "", "Train several models at once on the same data-parallel workers.", ""]
    lines += [f"  motet {name:10} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join([*lines, "", "motet COMMAND --help says more.", ""])
