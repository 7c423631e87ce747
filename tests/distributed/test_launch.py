"""Real workers under torch elastic: where they listen, how they end, and that nothing is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from motet.errors import UsageError, WorkerLostError
from motet.launcher import agent
from motet.launcher.options import parse_torchrun_options
from motet.launcher.outcome import GangOutcome, conclude
from motet.launcher.workers import run_workers
from motet.run_dir import RunDir

PRELUDE = """
import os, signal, subprocess, sys
from pathlib import Path
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
def tell(word=""):
    with open(sys.argv[1], "w") as ready:
        ready.write(f"{rank} {os.getpid()} {word}\\n")
def group():
    import torch, torch.distributed as dist
    dist.init_process_group("gloo")
    total = torch.ones(1)
    dist.all_reduce(total)
    assert total == dist.get_world_size()
"""


class Stage:
    """A program for the workers, and a thread that talks to them while `run` blocks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fifo = path / "ready"
        os.mkfifo(self.fifo)
        self.notified: list[str] = []

    def run(self, code: str, *options: str, meanwhile: Callable[[list[list[str]]], None] | None = None) -> GangOutcome:
        """Run ``code`` in workers; ``meanwhile`` gets what two workers told (number, process, word)."""
        program = self.path / "program.py"
        program.write_text(PRELUDE + textwrap.dedent(code))
        errors: list[BaseException] = []

        def talk() -> None:
            notices: list[list[str]] = []
            try:
                while len(notices) < 2:
                    with self.fifo.open() as ready:
                        notices += [line.split() for line in ready]
                assert meanwhile is not None
                meanwhile(notices)
            except BaseException as error:
                errors.append(error)
                os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=talk, daemon=True)
        if meanwhile is not None:
            thread.start()
        parsed = parse_torchrun_options(["--nproc-per-node=2", *options])
        outcome = run_workers(parsed, [str(self.fifo)], program=str(program), notify=self.notified.append)
        if meanwhile is not None:
            thread.join(timeout=30)
            assert not thread.is_alive(), "the workers did not say that they were ready"
        if errors:
            raise errors[0]
        return outcome


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    before = set(psutil.Process().children(recursive=True))
    yield Stage(tmp_path)
    assert set(psutil.Process().children(recursive=True)) <= before, "processes are left"
    assert {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"} == environment
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def stop(number: signal.Signals = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_one_machine_listens_on_loopback_alone(stage: Stage) -> None:
    seen: list[tuple[str, str]] = []

    def look(notices: list[list[str]]) -> None:
        for process in [psutil.Process(), *(psutil.Process(int(pid)) for _, pid, _ in notices)]:
            for connection in process.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    seen.append((process.name(), connection.laddr.ip))
        stop()

    outcome = stage.run(
        """
        group()
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        tell(os.environ["MASTER_ADDR"])
        signal.pause()
        """,
        meanwhile=look,
    )
    assert outcome.agreed
    assert len(seen) >= 3, "the store and both workers' gloo listen"
    assert {address for _, address in seen} == {"127.0.0.1"}


def test_workers_start_again_after_one_failed(stage: Stage) -> None:
    outcome = stage.run(
        """
        group()
        os._exit(7 if rank == 1 and attempt == 0 else 0)
        """,
        "--max-restarts=2",
    )
    assert outcome.agreed
    assert outcome.exits == {0: 0, 1: 0}
    assert stage.notified == ["worker 1 ended with exit status 7; all workers start again"]


def test_a_killed_worker_is_named_with_its_job_and_turn(stage: Stage) -> None:
    run_dir = RunDir.create(stage.path / "run", {"jobs": [{"name": "gpt"}, {"name": "conv"}]})
    run_dir.state_path(1).write_bytes(b"gpt 47 computing\n\n\n")
    outcome = stage.run("""
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(0)
    """)
    assert outcome.exits == {0: 0, 1: -9}
    results, error = conclude(outcome, run_dir)
    assert isinstance(error, WorkerLostError)
    assert str(error).startswith("worker 1 was killed by SIGKILL, in turn 47 of job 'gpt' (computing)")
    assert run_dir.read_results() == results
    assert {name: (job.status, job.turns) for name, job in results.jobs.items()} == {
        "gpt": ("stopped", 47),
        "conv": ("stopped", 0),
    }


def test_survivors_may_speak_and_then_are_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "FINAL_OUTPUT_SECONDS", 1.0)
    outcome = stage.run("""
        signal.signal(signal.SIGTERM, lambda *_: os._exit(9))  # nobody may send it
        subprocess.Popen(["sleep", "1000"])                    # such as a DataLoader worker
        if rank == 1:
            sys.exit(5)
        signal.pause()
    """)
    assert outcome.exits == {1: 5, 0: -signal.SIGKILL}
    assert outcome.killed == {0}


def test_a_stop_reaches_each_worker_once_and_nobody_else(stage: Stage) -> None:
    outcome = stage.run(
        """
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
        count = 0
        def on_term(*_):
            global count
            count += 1
        signal.signal(signal.SIGTERM, on_term)
        tell()
        signal.pause()
        signal.sigtimedwait([], 0.3)   # time for a second one, which must not come
        Path(sys.argv[1] + str(rank)).write_text(f"{count} {child.poll()}")
        sys.exit(0)
        """,
        "--max-restarts=3",
        meanwhile=lambda report: stop(signal.SIGINT),
    )
    assert outcome.stopped_by is signal.SIGINT
    assert outcome.agreed
    assert [Path(f"{stage.fifo}{rank}").read_text() for rank in range(2)] == ["1 None"] * 2


def test_a_stop_that_reaches_the_workers_first_starts_nothing_again(stage: Stage) -> None:
    def end(notices: list[list[str]]) -> None:
        for _, process, _ in notices:
            os.kill(int(process), signal.SIGTERM)
        while any(psutil.pid_exists(int(process)) for _, process, _ in notices):  # until the agent has seen them end
            time.sleep(0.001)
        stop()

    outcome = stage.run(
        """
        tell("waits")
        signal.pause()
        """,
        "--max-restarts=3",
        meanwhile=end,
    )
    assert outcome.stopped_by is signal.SIGTERM
    assert outcome.exits == {0: -signal.SIGTERM, 1: -signal.SIGTERM}
    assert stage.notified == []


@pytest.mark.parametrize("how", ["a second signal", "patience"])
def test_workers_that_do_not_stop_are_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(agent, "STOP_SECONDS", 1.0 if how == "patience" else 1000.0)

    def end(reported: list[list[str]]) -> None:
        stop(signal.SIGINT)
        if how == "a second signal":
            stage.fifo.read_text()  # a worker has been asked
            stop(signal.SIGINT)

    outcome = stage.run(
        """
        signal.signal(signal.SIGTERM, lambda *_: tell("asked"))
        tell()
        while True:
            signal.pause()
        """,
        "--max-restarts=3",
        meanwhile=end,
    )
    assert outcome.stopped_by is signal.SIGINT
    assert outcome.exits == {0: -9, 1: -9}
    run_dir = RunDir.create(stage.path / "run", {"jobs": [{"name": "gpt"}]})
    results, error = conclude(outcome, run_dir)
    assert error is None
    assert results["gpt"].status == "stopped"
    assert "SIGINT" in results.notices[0]


def test_threads_are_as_torchrun_sets_them(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    words: list[str] = []

    def note(notices: list[list[str]]) -> None:
        words.extend(word for _, _, word in notices)

    assert stage.run('tell(os.environ["OMP_NUM_THREADS"])', meanwhile=note).agreed
    assert words == ["1", "1"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--nproc-per-node=0", "at least 1"),
        ("--nproc-per-node=-3", "at least 1"),
        ("--nproc-per-node=many", "many"),
        ("--nnodes=0", "at least 1"),
        ("--nnodes=2:1", "MIN at most MAX"),
        ("--nnodes=some", "some"),
        ("--max-restarts=-1", "at least 0"),
        ("--monitor-interval=0", "above 0"),
        ("--redirects=9", "9"),
    ],
)
def test_options_that_start_nothing(tmp_path: Path, option: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run_workers(parse_torchrun_options([option]), [], program=str(tmp_path / "none.py"))


def test_etcd_is_refused() -> None:
    with pytest.raises(UsageError, match="etcd"):
        run_workers(parse_torchrun_options(["--nnodes=2", "--rdzv-backend=etcd-v2"]), [])


def test_a_limit_of_open_files_is_raised_or_told(tmp_path: Path) -> None:
    script = "from motet.launcher.options import *; check_torchrun_options(parse_torchrun_options([]))"
    report = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    command = f"ulimit {{}} 100 && {sys.executable} -c '{script}; {report}'"
    done = subprocess.run(["sh", "-c", command.format("-Sn")], capture_output=True, text=True, check=False)
    assert done.stdout == "256\n", done.stderr
    done = subprocess.run(["sh", "-c", command.format("-n")], capture_output=True, text=True, check=False)
    assert "UsageError: a process may open 100 files here" in done.stderr.replace("motet.errors.", "")
