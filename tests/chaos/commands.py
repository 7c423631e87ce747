"""Whole commands, struck from their first moment to their last, and started again until they have ended.

A run has jobs with DataLoader workers, threads, timers and children (`tests.chaos.busy_loops`). Each start of it is
struck once: before the first turn, while all train, or when the last loop has ended and its results are being written.
Then the same command goes on, as a batch system's requeue has it, until one is left alone. Required each time: an end
within the time limit, a status that fits what was done, nobody charged for what came from outside, no process left
after five seconds; at the end the weights of each job alone.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.chaos.busy_loops import JOBS
from tests.chaos.faults import Counts
from tests.distributed.command import Place

from motet.errors import UsageError
from motet.testing import Gang

NUM_WORKERS = 2
LONGEST_SECONDS = 150.0
LEFT_SECONDS = 5.0
MOST_STRIKES = 6
MOST_STARTS = 12
STOPPED, LOST = {0, 3}, {0, 4}
MOMENTS = ("first", "middle", "last")
_CATCHABLE = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1}


@dataclass(frozen=True)
class Strike:
    """Who gets which signal, and with which statuses the command may end after it.

    ``charges``: it looks as if a job had failed by itself, which counts as one of its tries.
    """

    victims: str
    number: signal.Signals
    statuses: frozenset[int]
    charges: bool = False

    @classmethod
    def of(cls, victims: str, number: signal.Signals, statuses: set[int], *, charges: bool = False) -> Strike:
        """Return a strike; a command that was interrupted before it has started anything says so by 130, as others."""
        return cls(victims, number, frozenset(statuses), charges)


STRIKES = {
    "kill launcher": Strike.of("launcher", signal.SIGKILL, {-signal.SIGKILL, 0}),
    "kill worker": Strike.of("worker", signal.SIGKILL, LOST),
    "kill all": Strike.of("all", signal.SIGKILL, {-signal.SIGKILL, 0}),
    "kill helper": Strike.of("helper", signal.SIGKILL, LOST, charges=True),
    "terminate launcher": Strike.of("launcher", signal.SIGTERM, STOPPED),
    "terminate worker": Strike.of("worker", signal.SIGTERM, STOPPED | LOST),
    "terminate all": Strike.of("all", signal.SIGTERM, STOPPED),
    "interrupt launcher": Strike.of("launcher", signal.SIGINT, STOPPED | {130}),
    "interrupt all": Strike.of("all", signal.SIGINT, STOPPED | {130}),
    "usr1 to all": Strike.of("all", signal.SIGUSR1, STOPPED),
    "quit launcher": Strike.of("launcher", signal.SIGQUIT, STOPPED),
    "quit all": Strike.of("all", signal.SIGQUIT, STOPPED),
    "stall all": Strike.of("all", signal.SIGSTOP, {0}),
    "Ctrl-Z": Strike.of("launcher", signal.SIGTSTP, {0}),
}


class Commands:
    """Strikes one run after the other, all of one ``house``. ``only``, ``moments``: the kinds there are, or all."""

    def __init__(
        self, folder: Path, seed: int, house: str, only: Sequence[str] = (), moments: Sequence[str] = MOMENTS
    ) -> None:
        self.house, self.moments = house, tuple(moments)
        self.kinds = [kind for kind in STRIKES if not only or kind in only]
        if not self.kinds:
            raise UsageError(f"there are no strikes of the kinds {', '.join(only)}, only {', '.join(STRIKES)}")
        self.draw, self.counts = random.Random(seed), Counts()
        self._folder = folder
        self._first_seconds, self._last_seconds = 5.0, 2.0  # until the first turn; from the last loop's end
        self._expected: dict[str, str] = {}

    def run(self, num_strikes: int, seconds: float = math.inf) -> Counts:
        """Strike runs so many times, or for so many ``seconds``; every run is brought to its end."""
        end = time.monotonic() + seconds
        with Gang(NUM_WORKERS, timeout_seconds=LONGEST_SECONDS) as gang:
            self._expected = {name: gang.run("tests.chaos.busy_loops:alone", name)[0] for name in JOBS}
        while self.counts.faults.total() < num_strikes and time.monotonic() < end:
            self._one_run(num_strikes)
            print(f"after {self.counts.runs} runs: {self.counts}", file=sys.stderr, flush=True)
        return self.counts

    def _one_run(self, num_strikes: int) -> None:
        self.counts.runs += 1
        place = Place(self._folder / f"run-{self.counts.runs}")
        place.path.mkdir()
        (place.path / "jobs.yaml").write_text(json.dumps({"jobs": JOBS}))
        words = ["run", f"--nproc-per-node={NUM_WORKERS}", f"--house={self.house}", "--timeout=20s"]
        words += [f"--max-restarts={self.draw.choice([0, 2])}", "--max-job-failures=20", "jobs.yaml", "--run-dir=out"]
        left = self.draw.randint(2, MOST_STRIKES)
        try:
            for start in range(MOST_STARTS):
                strikes = start < left and self.counts.faults.total() < num_strikes
                if self._one_start(place, words, self.draw.choice(self.kinds) if strikes else None):
                    return
            self._wrong("the run did not end")
        finally:
            place.close()

    def _one_start(self, place: Place, words: Sequence[str], kind: str | None) -> bool:
        """Start the command, strike it if a ``kind`` is given, and check how it ends; return whether all is over."""
        self.counts.starts += 1
        marks = place.path / f"marks-{self.counts.starts}"
        marks.mkdir()
        place.environment["MOTET_TEST_MARKS"] = str(marks)
        before = _charges(place)
        process = place.start(*words)
        moment, part = self.draw.choice(self.moments), self.draw.random()
        lasting = self.draw.choice([0.1, 0.5, 2.0])
        begun = time.monotonic()
        struck = kind is not None and self._wait_for(moment, part, marks, process, begun)
        if struck:
            assert kind is not None
            struck = self._strike(STRIKES[kind], place, process, lasting)
            self.counts.faults[f"{kind}, {moment}"] += struck
        report = f"{kind if struck else 'nothing'} ({moment} {part:.2f})"
        try:
            out, err = process.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            self._wrong(f"{report}: hung: {[_described(each) for each in place.processes()]}")
            place.close()
            out, err = process.communicate()
            print(out[-3000:], err[-3000:], file=sys.stderr)
            return True
        status = process.returncode
        self._check_left(place, report)
        expected = set(STRIKES[kind].statuses) if struck and kind is not None else {0}
        if struck and kind is not None and moment != "middle" and STRIKES[kind].number in _CATCHABLE:
            expected.add(-STRIKES[kind].number)  # Python has not set its handlers yet, or has given them back
        if "helper" in report and moment == "first":
            expected.add(2)  # it was the child that checks whether the jobs can be imported
        if status not in expected:
            self._wrong(f"{report}: status {status}, not one of {sorted(expected)}\n{out[-2000:]}\n{err[-4000:]}")
        if _charges(place) > before and not (struck and kind is not None and STRIKES[kind].charges):
            self._wrong(f"{report}: a job was charged\n{err[-4000:]}")
        own = "quit" in report or "KeyboardInterrupt" in err  # jobs' processes die one by one; a child of a job says so
        if status == 3 and "Traceback" in err and not own:
            self._wrong(f"{report}: a traceback\n{err[-4000:]}")
        if status != 0:
            return status == 1  # a job was lost, and that has been told
        if (found := place.jobs_of(field="result")) != self._expected:
            other = [name for name in JOBS if found[name] != self._expected[name]]
            self._wrong(f"{report}: other weights than alone: {other}, {place.jobs_of()}")
        return True

    def _wait_for(self, moment: str, part: float, marks: Path, process: subprocess.Popen[str], begun: float) -> bool:
        """Wait for the moment; return whether the command still runs then."""
        if moment == "first":
            _wait(lambda: time.monotonic() - begun > part * self._first_seconds, process)
        else:
            _wait((marks / "loader.begun").exists, process)
            self._first_seconds = time.monotonic() - begun
            if moment == "middle":
                time.sleep(part * 1.5)
            else:
                _wait(lambda: all((marks / f"{name}.ended").exists() for name in JOBS), process)
                time.sleep(part * self._last_seconds)
        return process.poll() is None

    def _strike(self, strike: Strike, place: Place, process: subprocess.Popen[str], lasting: float) -> bool:
        """Strike, and return whether anybody was there to be struck."""
        launcher = psutil.Process(process.pid)
        workers = place.workers()
        everybody = list(place.processes())
        helpers = [each for each in everybody if each.pid != process.pid and each not in workers]
        chosen = {"launcher": [launcher], "worker": workers, "all": everybody, "helper": helpers}
        victims = chosen[strike.victims]
        if strike.victims in ("worker", "helper"):
            victims = self.draw.sample(victims, min(len(victims), 1))
        self.draw.shuffle(victims)
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.send_signal(strike.number)
        if strike.number in (signal.SIGSTOP, signal.SIGTSTP):
            time.sleep(lasting)
            for victim in victims:
                with contextlib.suppress(psutil.Error):
                    victim.send_signal(signal.SIGCONT)
        return bool(victims)

    def _check_left(self, place: Place, message: str) -> None:
        deadline = time.monotonic() + LEFT_SECONDS
        while (left := list(place.processes())) and time.monotonic() < deadline:
            psutil.wait_procs(left, timeout=0.1)
        if left:
            self._wrong(f"{message}: left after {LEFT_SECONDS:.0f} s: {[_described(each) for each in left]}")
            place.close()

    def _wrong(self, what: str) -> None:
        text = f"run {self.counts.runs}, start {self.counts.starts} ({self.house}): {what}"
        print(text, file=sys.stderr, flush=True)  # whoever ends the suite early has seen it
        self.counts.wrong.append(text)


def _wait(there: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not there() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def _charges(place: Place) -> int:
    return len(list((place.path / "out").glob("jobs/*/attempts/*.json")))


def _described(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} of {process.ppid()}, {process.status()}: {' '.join(process.cmdline())[-80:]}"
    return f"{process.pid}"
