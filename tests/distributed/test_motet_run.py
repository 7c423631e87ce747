"""The whole command, from outside: real processes, real groups, a script that knows nothing of Motet."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from motet.run_dir import RunDir

TRAIN = """
import argparse, os, signal, sys
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=4)
parser.add_argument("--fail-at", type=int)
parser.add_argument("--kill-at", type=int)
parser.add_argument("--once")
parser.add_argument("--tell")
args = parser.parse_args()
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(rank)
model = DistributedDataParallel(torch.nn.Linear(8, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(1, args.steps + 1):
    if step == args.fail_at:
        raise ValueError("no such layer")
    if step == args.kill_at and rank == 1 and not (args.once and os.path.exists(args.once)):
        if args.once:
            open(args.once, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    optimizer.zero_grad()
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    if step == 2 and args.tell and rank == 0:
        with open(args.tell, "w") as ready:
            ready.write("ready")
print("trained", args.steps)
dist.destroy_process_group()
"""
TWO = "--nproc-per-node=2"
ENDLESS = ["train.py", "--each=--steps=1000000 --tell=ready", "--run-dir=out"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOTET_TEST", str(tmp_path))  # every process that a test starts inherits it
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "good.yaml").write_text("jobs:\n  a: {script: train.py}\n  b: {script: train.py, args: {steps: 6}}\n")
    yield tmp_path
    for process in left_of(tmp_path):
        process.kill()


def left_of(place: Path) -> list[psutil.Process]:
    """Return the processes that the test in ``place`` started and that still run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("MOTET_TEST") == str(place):
                found.append(process)
    return found


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str], *, alone: bool = True) -> tuple[int, str, str]:
    """Wait for the command; return its status, stdout and stderr. Nothing that it started may be left."""
    out, err = process.communicate(timeout=120)
    assert not alone or not left_of(Path.cwd())
    return process.returncode, out, err


def start_and_wait_until_it_trains(place: Path) -> subprocess.Popen[str]:
    """Start two workers that train for hours; return when the second turn is over."""
    return wait_until_it_trains(place, ["-m", "motet", "run", TWO, *ENDLESS])[0]


def wait_until_it_trains(place: Path, *commands: list[str]) -> list[subprocess.Popen[str]]:
    """Start commands that train for hours, together; return when the second turn is over."""
    os.mkfifo(place / "ready")
    processes = [start(*words) for words in commands]

    def give_up() -> None:
        for process in processes:
            process.wait()
        with contextlib.suppress(OSError):  # nobody reads any more: all is well
            os.write(os.open(place / "ready", os.O_WRONLY | os.O_NONBLOCK), b"ended")

    threading.Thread(target=give_up, daemon=True).start()
    word = (place / "ready").read_text()
    (place / "ready").unlink()  # a later start of the run writes to a file
    assert word == "ready", [process.communicate() for process in processes]
    return processes


def run(*words: str) -> tuple[int, str, str]:
    return ended(start("-m", "motet", "run", *words))


def results(run_dir: str = "out") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(run_dir, "results.json").read_text())
    return content


def statuses(run_dir: str = "out") -> dict[str, str]:
    return {name: job["status"] for name, job in results(run_dir)["jobs"].items()}


def test_a_script_trains_twice_at_once() -> None:
    status, out, err = run(TWO, "train.py", "--each", "--steps=4", "--each", "--steps=6", "--run-dir", "out")
    assert status == 0, err
    lines = out.splitlines()
    assert any(line.startswith("steps4") and "finished" in line for line in lines), out
    assert "2 workers" in out
    assert "Traceback" not in err
    assert {name: (job["status"], job["turns"]) for name, job in results()["jobs"].items()} == {
        "steps4": ("finished", 4),
        "steps6": ("finished", 6),
    }
    description = json.loads(Path("out/run.json").read_text())
    assert description["command"][:3] == ["motet", "run", TWO]
    assert description["versions"].keys() == {"motet", "python", "torch", "numpy"}
    assert "trained 6" in Path("out/jobs/steps6/log.txt").read_text()
    assert out.count("trained 4") == 1, "worker 0 alone is heard"
    # a second run may not write over the first
    status, _, err = run(TWO, "train.py", "--each", "", "--run-dir", "out")
    assert (status, "holds another run" in err) == (2, True)


def test_a_module_trains_twice_at_once(place: Path) -> None:
    package = place / "trainers"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "shared.py").write_text("seen = []\n")
    report = "from . import shared\nshared.seen.append(1)\n" + TRAIN
    (package / "train.py").write_text(
        f"{report}print('as', __package__, sys.argv[0], 'alone', len(shared.seen) == 1)\n"
    )
    jobs = ["-m", "trainers.train", "--each=--steps=4", "--each=--steps=6"]
    status, out, err = run(TWO, *jobs, "--run-dir=out")
    assert status == 0, err
    assert statuses() == {"steps4": "finished", "steps6": "finished"}
    assert out.count(f"as trainers {package / 'train.py'} alone True") == 2, out
    described = json.loads(Path("out/run.json").read_text())["jobs"]
    assert {(job["kind"], job["target"]) for job in described} == {("module", "trainers.train")}
    status, _, err = ended(start("-m", "motet", "resume", "out"))
    assert (status, "nothing to do" in err) == (0, True), err
    status, out, err = ended(start("-m", "motet", "plan", *jobs, "--turns=2"))
    assert status == 0, err
    assert "steps4" in out
    status, out, err = run(TWO, "-m", "trainers.trian", "--each=")
    assert (status, "did you mean 'train'" in err) == (2, True), err


def test_a_job_that_fails_on_all_workers_is_status_1() -> None:
    status, out, err = run(TWO, "train.py", "--each", "--fail-at=3", "--each", "--steps=6", "--run-dir", "out")
    assert status == 1, err
    assert sorted(statuses().values()) == ["failed", "finished"]
    assert "no such layer" in out
    failed = next(job for job in results()["jobs"].values() if job["status"] == "failed")
    assert "ValueError: no such layer" in failed["error"]


def test_a_worker_that_is_killed_is_named_with_job_and_turn() -> None:
    status, _, err = run(TWO, "train.py", "--each", "--kill-at=3", "--each", "--steps=1000", "--run-dir", "out")
    assert status == 4, err
    assert "worker 1 was killed by SIGKILL" in err
    assert "job 'kill-at3'" in err
    assert set(statuses().values()) == {"stopped"}


def test_workers_start_again_after_one_was_killed() -> None:
    status, _, err = run(
        TWO, "--max-restarts=1", "train.py", "--each", "--kill-at=3 --once=once", "--each", "--steps=6", "--run-dir=out"
    )  # fmt: skip
    assert status == 0, err
    assert "worker 1 was killed by SIGKILL" in err
    assert "start again" in err
    assert set(statuses().values()) == {"finished"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_ends_all_workers_and_writes_results(place: Path, number: signal.Signals) -> None:
    process = start_and_wait_until_it_trains(place)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    status, out, err = ended(process)
    assert status == 3, err
    assert set(statuses().values()) == {"stopped"}
    assert "stopped" in out
    assert "Traceback" not in err
    assert len(workers) >= 2
    assert not any(worker.is_running() for worker in workers)


def test_workers_do_not_outlive_a_killed_launcher(place: Path) -> None:
    process = start_and_wait_until_it_trains(place)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", TWO, "-m", "motet", "run")


def test_torchrun_may_start_it() -> None:
    status, out, err = ended(start(*TORCHRUN, "good.yaml", "--run-dir", "out"))
    assert status == 0, err
    assert statuses() == {"a": "finished", "b": "finished"}
    assert out.count("2 workers") == 1


@pytest.mark.parametrize("words", [("absent.yaml",), ("good.yaml", "--nproc-per-node=3"), ("good.yaml", "--order=a,x")])
def test_under_torchrun_worker_0_alone_says_what_is_wrong(words: tuple[str, ...]) -> None:
    status, _, err = ended(start(*TORCHRUN, *words))
    assert status != 0
    assert err.count("motet: ") == 1, err
    assert not Path("runs").exists()


def machines() -> list[str]:
    """Return the options by which two launchers find each other."""
    import socket

    with socket.socket() as probe:  # torch elastic has to be told a port before it can listen on it
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = ["--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    return [*common, "--local-addr=127.0.0.1"]


def test_two_machines_agree_on_one_run(place: Path) -> None:
    words = ["-m", "motet", "run", *machines(), "good.yaml", "--run-dir=out"]
    both = [start(*words), start(*words)]
    both[0].wait(timeout=120)
    answers = [(m.returncode, *texts) for m in both for texts in [m.communicate(timeout=120)]]
    assert not left_of(place)
    assert [status for status, _, _ in answers] == [0, 0], answers
    assert results()["num_workers"] == 2
    assert statuses() == {"a": "finished", "b": "finished"}
    assert sorted(out.count("report: ") for _, out, _ in answers) == [0, 1], "by worker 0's machine alone"
    assert Path("out/report.html").exists()
    assert Path("out/trace.json").exists()


def test_a_run_of_two_machines_is_held(place: Path) -> None:
    words = ["-m", "motet", "run", *machines(), *ENDLESS]
    both = wait_until_it_trains(place, words, words)
    status, _, err = ended(start("-m", "motet", "resume", "out", "--nnodes=1", TWO), alone=False)
    assert (status, "still going on" in err) == (2, True), err
    again = machines()
    others = [start("-m", "motet", "resume", "out", *again) for _ in range(2)]
    for process in others:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 2, (out, err)
    assert not Path("out/results.json").exists(), "nobody has written over it"
    for process in both:
        process.send_signal(signal.SIGTERM)
    answers = [(m.returncode, *texts) for m in both for texts in [m.communicate(timeout=120)]]
    assert [status for status, _, _ in answers] == [3, 3], answers
    again = machines()
    others = [start("-m", "motet", "resume", "out", "--stop-after=1s", *again) for _ in range(2)]
    answers = [(m.returncode, *texts) for m in others for texts in [m.communicate(timeout=120)]]
    assert [status for status, _, _ in answers] == [3, 3], answers
    assert sorted(out.count("report: ") for _, out, _ in answers) == [0, 1]
    assert not left_of(place)


def test_a_run_that_torchrun_started_is_held(place: Path) -> None:
    [process] = wait_until_it_trains(place, [*TORCHRUN, *ENDLESS])
    status, _, err = ended(start("-m", "motet", "resume", "out", TWO), alone=False)
    assert (status, "still going on" in err) == (2, True), err
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    with RunDir.open("out").held():
        pass


LAUNCHES = """
import time
import motet
from motet.jobs import JobSpec

if __name__ == "__main__":
    motet.launch([JobSpec("a", "script", "TRAIN", ["--steps=1000000", "--tell=ready"])], run_dir="out")
"""


def test_a_run_that_a_program_launched_is_held(place: Path) -> None:
    Path("program.py").write_text(LAUNCHES.replace("TRAIN", str(place / "train.py")))
    [process] = wait_until_it_trains(place, ["program.py"])
    status, _, err = ended(start("-m", "motet", "resume", "out"), alone=False)
    assert (status, "still going on" in err) == (2, True), err
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    with RunDir.open("out").held():
        pass


PROGRAM = """
import functools, sys
import torch, motet
from torch.nn.parallel import DistributedDataParallel

print("imported as", __name__)

def train(width, fail=False):
    import torch.distributed as dist
    model = DistributedDataParallel(torch.nn.Linear(width, 1))
    model(torch.ones(2, width)).sum().backward()
    if fail:
        raise ValueError("no")
    return {"weights": model.module.weight.detach(), "workers": dist.get_world_size()} if width > 3 else 0.5

if __name__ == "__main__":
    results = motet.launch(
        {"narrow": functools.partial(train, 2), "wide": functools.partial(train, width=5),
         "bad": functools.partial(train, 2, fail=True)},
        nproc_per_node=2, order="narrow,wide,narrow,bad", run_dir="out")
    assert results["narrow"].result == 0.5, results["narrow"]
    assert results["wide"].result["weights"].shape == (1, 5), results["wide"]
    assert results["wide"].result["workers"] == 2
    assert results["bad"].status == "failed"
    assert results.num_workers == 2
    print("well")
"""


def test_a_program_launches_its_own_functions(place: Path) -> None:
    (place / "program.py").write_text(PROGRAM)
    status, out, err = ended(start("program.py"))
    assert status == 0, err
    assert "well" in out
    assert out.count("imported as __main__") == 1
    assert [job["kind"] for job in json.loads(Path("out/run.json").read_text())["jobs"]] == ["python"] * 3
    assert not list(Path("out").glob("*parcel*")), "a run directory holds no code"


NOTEBOOK = """
import motet
def train():
    return scale * 2
scale = 21
print(motet.launch({"cell": train}, run_dir="out")["cell"].result)
"""


def test_a_notebook_launches_functions_of_its_cells(place: Path) -> None:
    pytest.importorskip("cloudpickle")
    status, out, err = ended(start("-c", NOTEBOOK))
    assert status == 0, err
    assert "42" in out


def test_a_program_without_a_guard_is_reported(place: Path) -> None:
    (place / "program.py").write_text("import motet\ndef f(): pass\nmotet.launch({'a': f})\n")
    status, _, err = ended(start("program.py"))
    assert status != 0
    assert '__name__ == "__main__"' in err
