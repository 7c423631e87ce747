"""What jobs register with ``atexit`` runs when they end, in the job's own surroundings."""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import math
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

import motet
from motet.intercept.exit_hooks import ExitHooks
from motet.testing import tiny_job


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def test_hooks_run_when_the_job_ends() -> None:
    called: list[tuple[str, str]] = []

    def job(name: str, steps: int) -> None:
        def hook(word: str) -> None:
            called.append((motet.current_job().name, word))

        atexit.register(hook, f"{name} first")
        assert atexit.register(hook, word=f"{name} second") is hook
        forgotten = lambda: called.append((name, "forgotten"))  # noqa: E731
        atexit.register(forgotten)
        tiny_job(steps=steps)
        atexit.unregister(forgotten)
        sys.argv = [name]

    def fails() -> None:
        atexit.register(lambda: called.append(("fails", "in spite of it")))
        atexit.register(lambda: 1 / 0)
        raise ValueError("no")

    register = atexit.register
    results = motet.run({"long": lambda: job("long", 5), "short": lambda: job("short", 2), "fails": fails})
    assert [job.status for job in results.jobs.values()] == ["finished", "finished", "failed"]
    assert called == [
        ("fails", "in spite of it"),
        ("short", "short second"),
        ("short", "short first"),
        ("long", "long second"),
        ("long", "long first"),
    ]
    assert atexit.register is register


def test_a_hook_that_exits_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    called: list[str] = []

    def job() -> int:
        atexit.register(called.append, "the next")
        atexit.register(sys.exit, 3)
        signal.signal(signal.SIGTERM, lambda *_: None)
        tiny_job(steps=2)
        return 5

    result = motet.run({"job": job})["job"]
    assert (result.status, result.result, called) == ("finished", 5, ["the next"])
    assert "Exception ignored in atexit callback" in capsys.readouterr().err


def test_a_loop_that_swallows_the_stop_leaves_nothing_behind() -> None:
    kept: list[weakref.ref[Kept]] = []

    class Kept:
        def __call__(self, *_: object) -> None: ...

    def job() -> None:
        kept.append(weakref.ref(handler := Kept()))
        signal.signal(signal.SIGTERM, handler)
        kept.append(weakref.ref(hook := Kept()))
        atexit.register(hook)
        del handler, hook
        model = DistributedDataParallel(torch.nn.Linear(2, 1))
        while True:
            with contextlib.suppress(BaseException):
                (model(torch.ones(1, 2)).sum() * math.nan).backward()

    assert motet.run({"job": job}, on_nan="stop-job")["job"].status == "failed"
    gc.collect()
    assert [each() for each in kept] == [None, None]


LOGS = """
import logging, logging.handlers, sys, torch.distributed
from motet.testing import tiny_job

torch.distributed.init_process_group("gloo")
log = logging.getLogger("mine")
log.propagate = False
file = logging.FileHandler(sys.argv[1])
log.addHandler(logging.handlers.MemoryHandler(1000, target=file))
log.warning("begun")
tiny_job(steps=2)
log.warning("trained")
"""


@pytest.mark.parametrize("ending", ["", "raise ValueError('no')", "sys.exit(3)"])
def test_what_log_handlers_hold_is_written_and_they_are_closed(tmp_path: Path, ending: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(LOGS + ending)
    places = {name: tmp_path / name for name in ("a", "b")}
    before = set(os.listdir("/proc/self/fd"))
    motet.run({name: motet.Script(script, [str(place)]) for name, place in places.items()})
    assert [place.read_text() for place in places.values()] == ["begun\ntrained\n"] * 2
    assert {os.path.realpath(f"/proc/self/fd/{number}") for number in set(os.listdir("/proc/self/fd")) - before} & {
        str(place) for place in places.values()
    } == set()


def test_handlers_from_before_the_run_stay_open(tmp_path: Path) -> None:
    log = logging.getLogger("of_the_program")
    log.addHandler(handler := logging.FileHandler(tmp_path / "log"))

    def job() -> None:
        log.error("in the job")

    try:
        motet.run({"a": job, "b": job})
        assert handler.stream is not None
        assert not handler.stream.closed
    finally:
        log.removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text() == "in the job\n" * 2


def test_a_job_may_close_its_streams() -> None:
    def job() -> None:
        tiny_job(steps=2)
        sys.stdout.close()
        sys.stderr.close()

    results = motet.run({"closes": job, "not": lambda: tiny_job(steps=4)})
    assert [result.status for result in results.jobs.values()] == ["finished", "finished"]


def test_what_ends_a_thing_that_all_jobs_share_is_the_processs() -> None:
    def teardown() -> None: ...

    hooks = ExitHooks()
    assert hooks.register("job", teardown)
    teardown.__module__ = "wandb.sdk.lib.service.service_connection"  # as of wandb's own, which ends its service
    assert not hooks.register("job", teardown)


def test_what_a_scripts_own_module_registers_is_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "imported_by_each.py").write_text(
        "import atexit, pathlib, sys\natexit.register(pathlib.Path(sys.argv[1]).write_text, 'called')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    script = tmp_path / "scripts" / "train.py"
    script.write_text("import imported_by_each\n")
    motet.run({name: motet.Script(script, [str(tmp_path / name)]) for name in ("a", "b")})
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["called", "called"]


def test_what_an_import_registers_is_the_processs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported_once.py").write_text(
        "import atexit\ncalled = []\ndef hook(): called.append(1)\natexit.register(hook)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def job() -> list[int]:
        import imported_once

        tiny_job(steps=2)
        return imported_once.called

    assert motet.run({"a": job, "b": job})["b"].result == []
    import imported_once

    atexit.unregister(imported_once.hook)


def test_files_that_a_script_leaves_open_are_written(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import atexit, sys, torch.distributed\nfrom motet.testing import tiny_job\n"
        "torch.distributed.init_process_group('gloo')\n"
        "log = open(sys.argv[1], 'w')\nlog.write('begun, ')\ntiny_job(steps=2)\nlog.write('trained, ')\n"
        "def say():\n    log.write('over')\natexit.register(say)\n"
    )
    each = ("--each", str(tmp_path / "a"), "--each", str(tmp_path / "b"))
    command = [sys.executable, "-m", "motet", "run", "--nproc-per-node=1", str(script), *each, "--run-dir=out"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "begun, trained, over"
