"""The command, run by tests from outside: started in a folder of its own, waited for, nothing left of it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent.parent
FAULTY = "tests.distributed.jobs_faulty:loop"
HOUSED = {"together": FAULTY, "process": "tests.distributed.jobs_faulty:loop_of_a_process"}  # the same loop
LONGEST_SECONDS = 150.0


class Place:
    """A folder in which commands are run; `processes` finds whatever of them is alive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        variables = {"MOTET_TEST_PLACE": str(path), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self.environment = {**os.environ, **variables}

    def jobs(self, house: str = "together", /, **jobs: dict[str, Any]) -> str:
        """Write a jobs file of faulty loops with these arguments, and return its name."""
        content = {"jobs": {name: {"call": HOUSED[house], "with": arguments} for name, arguments in jobs.items()}}
        (self.path / "jobs.yaml").write_text(json.dumps(content))
        return "jobs.yaml"

    def start(self, *words: str, prefix: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start ``motet`` with these words."""
        command = [*prefix, sys.executable, "-m", "motet", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.path, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Wait for a command; return its status, stdout and stderr. Nothing of it may be left."""
        try:
            out, err = process.communicate(timeout=LONGEST_SECONDS)
        finally:
            process.kill()
        deadline = time.monotonic() + 10
        while (left := list(self.processes())) and time.monotonic() < deadline:
            psutil.wait_procs(left, timeout=0.2)
        assert not left, left
        return process.returncode, out, err

    def motet(self, *words: str) -> tuple[int, str, str]:
        """Run ``motet`` with these words to its end."""
        return self.ended(self.start(*words))

    def wait_until(self, file: str, process: subprocess.Popen[str]) -> None:
        """Wait until a job has written ``file``."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not (self.path / file).exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "the jobs never got so far"
            time.sleep(0.02)

    def processes(self) -> Iterator[psutil.Process]:
        """Yield the processes that commands of this place have left or are."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get("MOTET_TEST_PLACE") == str(self.path):
                    yield process

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes, by number; what they have forked has the same command line."""
        found = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                forked = parent is not None and "motet.entry" in parent.cmdline()
                if "motet.entry" in process.cmdline() and not forked and "RANK" in process.environ():
                    found[int(process.environ()["RANK"])] = process
        return [found[number] for number in sorted(found)]

    def results(self, run_dir: str = "out") -> dict[str, Any]:
        """Return ``results.json``."""
        content: dict[str, Any] = json.loads((self.path / run_dir / "results.json").read_text())
        return content

    def jobs_of(self, run_dir: str = "out", field: str = "status") -> dict[str, Any]:
        """Return one field of each job's result."""
        return {name: job[field] for name, job in self.results(run_dir)["jobs"].items()}

    def checkpoints(self, job: str, run_dir: str = "out") -> list[str]:
        """Return the names of what is in a job's folder of checkpoints."""
        folder = self.path / run_dir / "checkpoints" / job
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def close(self) -> None:
        """Kill what is left."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
