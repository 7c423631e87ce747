"""Arguments, path, streams, directory, environment, warnings, logging: each job's own."""

from __future__ import annotations

import builtins
import ctypes
import gc
import io
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import greenlet
import numpy as np
import pytest
import torch.multiprocessing
from tests.unit.isolation.test_isolation import Job, alternate, check_apart

from motet import isolation
from motet.errors import MotetError


@pytest.fixture(autouse=True)
def _everything_as_before() -> Iterator[None]:
    before = isolation.take_all()
    multiprocessing.set_start_method(None, force=True)  # whatever ran before in this process
    yield
    isolation.put_all(before)


def _set_stdout() -> None:
    sys.stdout = io.StringIO()


def _set_streams() -> None:
    sys.stdin, sys.stderr = io.StringIO(), io.StringIO()


def _replace_print() -> None:
    builtins.print = lambda *words, **options: None


def _set_arguments() -> None:
    sys.argv = ["train.py", "--lr", "1"]


def _set_hook() -> None:
    sys.excepthook = lambda *details: None


def _set_hooks() -> None:
    sys.displayhook = sys.unraisablehook = threading.excepthook = lambda *details: None


def _set_showwarning() -> None:
    warnings.showwarning = lambda *details: None


def _raise_root_level() -> None:
    logging.root.setLevel(logging.root.level + 1)


def _set_start_method() -> None:
    multiprocessing.set_start_method("spawn")  # raises RuntimeError where someone else's choice is left


def _logging() -> object:
    handlers, level = list(logging.root.handlers), logging.root.level
    return handlers, level, logging.root.manager.disable, logging.getLogger("a").isEnabledFor(logging.WARNING)


CASES: dict[str, tuple[Callable[[], object], Callable[[], object], Callable[[], object]]] = {
    "streams": (lambda: (sys.stdin, sys.stdout, sys.stderr), _set_stdout, _set_streams),
    "builtins": (
        lambda: {name: value for name, value in vars(builtins).items() if name != "_"},
        _replace_print,
        lambda: vars(builtins).update(of_a_job=1),
    ),
    "hooks": (
        lambda: (sys.displayhook, sys.excepthook, sys.unraisablehook, threading.excepthook),
        _set_hook,
        _set_hooks,
    ),
    "arguments": (lambda: list(sys.argv), _set_arguments, lambda: sys.argv.append("--more")),
    "path": (lambda: list(sys.path), lambda: sys.path.insert(0, "/one"), lambda: sys.path.append("/two")),
    "warnings": (
        lambda: list(warnings.filters),
        lambda: warnings.filterwarnings("ignore", "one"),
        lambda: warnings.simplefilter("ignore"),
    ),
    "showwarning": (
        lambda: warnings.showwarning,
        _set_showwarning,
        lambda: logging.captureWarnings(True),
    ),
    "logging handlers": (
        _logging,
        lambda: logging.root.addHandler(logging.NullHandler()),
        lambda: logging.basicConfig(force=True, stream=io.StringIO()),
    ),
    "logging levels": (_logging, lambda: logging.disable(logging.CRITICAL), _raise_root_level),
    "gc": (lambda: (gc.isenabled(), gc.get_threshold()), gc.disable, lambda: gc.set_threshold(5, 6, 7)),
    "start method": (
        lambda: multiprocessing.get_start_method(allow_none=True),
        _set_start_method,
        _set_start_method,
    ),
    "sharing strategy": (
        torch.multiprocessing.get_sharing_strategy,
        lambda: torch.multiprocessing.set_sharing_strategy("file_system"),
        lambda: torch.multiprocessing.set_sharing_strategy("file_system"),
    ),
    "working directory": (os.getcwd, lambda: os.chdir("/"), lambda: os.chdir(os.path.dirname(__file__))),
}


@pytest.mark.parametrize("name", CASES)
def test_each_job_finds_its_own(name: str) -> None:
    check_apart(*CASES[name])


def test_the_caller_gets_the_same_objects_back() -> None:
    argv, path, filters, handlers = sys.argv, sys.path, warnings.filters, logging.root.handlers

    def job() -> Job:
        sys.argv.append("x")
        sys.path.clear()
        warnings.resetwarnings()
        logging.root.handlers.clear()
        yield

    alternate(job(), job())
    assert sys.argv is argv
    assert sys.path is path
    assert warnings.filters is filters
    assert logging.root.handlers is handlers
    assert path


def test_environment_in_the_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTET_TEST_CHANGED", "before")
    monkeypatch.setenv("MOTET_TEST_DELETED", "before")
    monkeypatch.delenv("MOTET_TEST_ADDED", raising=False)
    names = ("MOTET_TEST_CHANGED", "MOTET_TEST_DELETED", "MOTET_TEST_ADDED")
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p

    def read() -> object:
        return [os.environ.get(name) for name in names], [getenv(name.encode()) for name in names]

    def change() -> None:
        os.environ["MOTET_TEST_CHANGED"] = "é"
        del os.environ["MOTET_TEST_DELETED"]
        os.environ["MOTET_TEST_ADDED"] = "x=y"

    check_apart(read, change, lambda: os.environ.update(MOTET_TEST_CHANGED="other"))


def test_a_block_that_catches_warnings_stays_open(recwarn: pytest.WarningsRecorder) -> None:
    def catching() -> Job:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                warnings.warn("mine", stacklevel=1)
                yield
        assert [str(w.message) for w in caught] == ["mine"] * 3
        assert warnings.filters == before
        yield

    def erring() -> Job:
        warnings.simplefilter("error")
        for _ in range(4):
            yield
            with pytest.raises(UserWarning, match="other"):
                warnings.warn("other", stacklevel=1)

    before = list(warnings.filters)
    alternate(catching(), erring())
    assert len(recwarn) == 0


def test_a_warning_shown_once_is_not_shown_at_every_turn() -> None:
    code = """
import warnings
from motet import isolation
def job(action):
    warnings.filterwarnings(action, "something else")
    for _ in range(5):
        yield
        warnings.warn("said once")
jobs = [job("ignore"), job("error")]
outside = isolation.take_all()
saved = [outside.copy() for _ in jobs]
for _ in range(5):
    for i, one in enumerate(jobs):
        outside = isolation.exchange(saved[i])
        next(one)
        saved[i] = isolation.exchange(outside)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.count("UserWarning: said once") == 1  # Python 3.13 shows the line of code as well


def test_a_working_directory_that_was_removed_is_named(tmp_path: Path) -> None:
    before = os.getcwd()
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    saved = isolation.take_all()
    os.chdir(before)
    (tmp_path / "gone").rmdir()
    with pytest.raises(MotetError, match=r"'working directory'.*gone"):
        isolation.put_all(saved)


def test_nowhere_is_no_place_to_come_back_to(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    saved = isolation.take_all()
    os.chdir(tmp_path)
    isolation.put_all(saved)
    assert os.getcwd() == str(tmp_path)


def test_numpys_error_state_and_print_options_are_in_the_context_of_a_greenlet() -> None:
    """Why the isolation has no entry for them."""
    before = np.geterr(), np.get_printoptions()

    def body() -> None:
        np.seterr(all="raise")
        np.set_printoptions(precision=2)
        hub.switch()
        assert np.geterr()["divide"] == "raise"
        assert np.get_printoptions()["precision"] == 2

    hub = greenlet.getcurrent()
    job = greenlet.greenlet(body)
    job.switch()
    assert (np.geterr(), np.get_printoptions()) == before
    job.switch()
    assert job.dead
