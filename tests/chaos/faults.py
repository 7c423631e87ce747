"""Runs that are harmed at random moments, with a recorded seed, and what becomes of them."""

from __future__ import annotations

import collections
import contextlib
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.loops import LOOPS

from motet.checkpoints import Checkpoints
from motet.errors import CheckpointError, UsageError
from motet.shaped_links import ShapedLinks, shaped_links, why_not
from motet.testing import Gang, Outcome
from motet.testing.gang import GangCallError
from motet.workers.watch import EXIT_STATUS

ALONE, TOGETHER = "tests.chaos.loops:alone", "tests.chaos.loops:together"
NUM_WORKERS = 2
LONGEST_SECONDS = 120.0
TIMEOUT_SECONDS = 10.0
DISK_BYTES = 40_000_000
FATAL = {"kill", "kill all", "terminate", "link gone"}
# UsageError: the disk is full when a run is to go on.
CLEAR = {"UsageError", "WorkerLostError", "WorkerFailedError", "SyncTimeoutError", "DivergenceError", "GangError"}


@dataclass
class Counts:
    """What was done, and what went wrong."""

    faults: collections.Counter[str] = field(default_factory=collections.Counter)
    starts: int = 0
    runs: int = 0
    errors: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        errors = ", ".join(f"{count} {kind}" for kind, count in sorted(self.errors.items())) or "none"
        report = f"{self.faults.total()} faults ({faults}) in {self.runs} runs, {self.starts} starts of the gang"
        return "\n".join(
            [report, f"starts that ended with an error: {errors}", f"wrong: {len(self.wrong)}", *self.wrong]
        )


class Chaos:
    """Harms one run after the other. ``disk``: a small file system to fill; ``links``: a network to cut; or None.
    ``house``: where the jobs live.

    ``only``: the kinds of faults there are, all if it is empty. A link goes down for less than the timeout, or for good
    (``link gone``: until the workers have ended).
    """

    def __init__(
        self,
        place: Path,
        seed: int,
        disk: Path | None = None,
        links: ShapedLinks | None = None,
        only: Sequence[str] = (),
        pause: float = 0.004,
        house: str = "together",
    ) -> None:
        self.place, self.disk, self.links, self.pause, self.house = place, disk, links, pause, house
        self.draw = random.Random(seed)
        self.counts = Counts()
        self._num_begins: dict[tuple[Path, str], int] = {}
        kinds = ["kill", "kill", "kill all", "terminate", "stall", "stall"] + ["fill"] * (disk is not None)
        kinds += ["link down", "link down", "link gone"] * (links is not None)
        self.kinds = [kind for kind in kinds if not only or kind in only]
        if not self.kinds:
            raise UsageError(
                f"there are no faults of the kinds {', '.join(only)} here, only {', '.join(dict.fromkeys(kinds))}"
            )

    def run(self, num_faults: int, seconds: float = math.inf) -> Counts:
        """Harm runs until so many faults have happened, or for ``seconds``; every run is brought to its end."""
        end = time.monotonic() + seconds
        with Gang(NUM_WORKERS, timeout_seconds=LONGEST_SECONDS) as gang:
            expected = {name: gang.run(ALONE, name)[0] for name in LOOPS}
        joined = self.house == "together"  # jobs' processes start before there is a group
        with Gang(NUM_WORKERS, timeout_seconds=LONGEST_SECONDS, links=self.links, joined=joined) as gang:
            while self.counts.faults.total() < num_faults and time.monotonic() < end:
                self._one_run(gang, expected, num_faults)
                print(f"after {self.counts.runs} runs: {self.counts}", file=sys.stderr, flush=True)
        return self.counts

    def _one_run(self, gang: Gang, expected: dict[str, str], num_faults: int) -> None:
        """Begin a run and start it again until it has ended; compare."""
        self.counts.runs += 1
        folder = (self.disk or self.place) / f"run-{self.counts.runs}"
        before: dict[str, int] = {}
        for _ in range(40):
            gang.start()
            self.counts.starts += 1
            with self._harm(gang, num_faults):
                outcomes = self._attempt(gang, str(folder))
            self._check_starts(folder, before)
            before = self._check_checkpoints(folder)
            if all(outcome.ok for outcome in outcomes):
                jobs = outcomes[0].value
                if all(status == "finished" for status, _ in jobs.values()):
                    found = {name: result for name, (_, result) in jobs.items()}
                    if found != expected:
                        self._wrong(f"other weights than alone: {[n for n in expected if found[n] != expected[n]]}")
                    return
                if any(status == "failed" for status, _ in jobs.values()):
                    self._wrong(f"a job was lost: {jobs}")
                    return
        self._wrong("the run did not end in 40 starts")

    def _attempt(self, gang: Gang, folder: str) -> list[Outcome]:
        try:
            outcomes = gang.attempt(TOGETHER, folder, self.pause, TIMEOUT_SECONDS, self.house)
        except GangCallError as error:
            self._wrong(f"hung: {error}")
            return [Outcome(error=str(error))]
        for worker, outcome in enumerate(outcomes):
            if outcome.kind is not None:
                self.counts.errors[outcome.kind] += 1
                if outcome.kind not in CLEAR:
                    self._wrong(f"an error that is not clear: {outcome}")
            elif outcome.status == EXIT_STATUS:
                self.counts.errors["told by the watch"] += 1
            elif outcome.status not in (None, -signal.SIGKILL, -signal.SIGTERM):  # by that before it listens
                self._wrong(f"worker {worker} {outcome}:\n{gang.output(worker)[-4000:]}")
        return outcomes

    @contextlib.contextmanager
    def _harm(self, gang: Gang, num_faults: int) -> Iterator[None]:
        """Let faults happen at random moments within the block, until one ends the workers."""
        pids, over = list(gang.pids), threading.Event()

        def strike() -> None:
            while self.counts.faults.total() < num_faults:
                kind, worker = self.draw.choice(self.kinds), self.draw.randrange(NUM_WORKERS)
                lasting = self.draw.choice([0.1, 0.5, 1.0, 4.0])
                if over.wait(self.draw.uniform(0.05, 1.6)):
                    return  # the run had ended before
                self.counts.faults[kind] += 1
                with contextlib.suppress(ProcessLookupError):
                    self._strike(kind, worker, pids, lasting, over)
                if kind in FATAL:
                    return

        thread = threading.Thread(target=strike)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _strike(self, kind: str, worker: int, pids: list[int], lasting: float, over: threading.Event) -> None:
        """Let one fault happen to a worker; block until what does not last has passed."""
        if kind == "kill":
            os.kill(pids[worker], signal.SIGKILL)
        elif kind == "kill all":
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        elif kind == "terminate":
            os.kill(pids[worker], signal.SIGTERM)
        elif kind == "stall":
            os.kill(pids[worker], signal.SIGSTOP)
            over.wait(lasting)
            os.kill(pids[worker], signal.SIGCONT)
        elif kind == "fill":
            assert self.disk is not None
            fill(self.disk / "ballast")
            over.wait(lasting)
            (self.disk / "ballast").unlink()
        else:
            assert kind in ("link down", "link gone")
            assert self.links is not None
            self.links.set_link(worker, up=False)
            # TCP takes as long again to go on, so half of it; or it is gone until the workers have ended.
            over.wait(lasting / 2 if kind == "link down" else None)
            self.links.set_link(worker, up=True)

    def _check_checkpoints(self, folder: Path) -> dict[str, int]:
        """Require that no checkpoint is damaged; return the turns that the jobs can go on from."""
        turns = {}
        for name in LOOPS:
            checkpoints = Checkpoints(folder / "checkpoints", name, worker=0, num_workers=NUM_WORKERS)
            try:
                found = checkpoints.latest()
            except CheckpointError as error:
                self._wrong(f"damaged: {error}")
                continue
            if checkpoints.problems:
                self._wrong(f"damaged: {checkpoints.problems}")
            turns[name] = 0 if found is None else found.turn
        return turns

    def _check_starts(self, folder: Path, before: dict[str, int]) -> None:
        """Require that each job that was started went on exactly from its last checkpoint."""
        for name in LOOPS:
            log = folder / "jobs" / name / "log.txt"
            said = re.findall(r"begins after (\d+)", log.read_text()) if log.exists() else []
            known, self._num_begins[folder, name] = self._num_begins.get((folder, name), 0), len(said)
            turn = before.get(name, 0)
            if len(said) > known and int(said[known]) != turn:  # a process of a job's may start again later on
                self._wrong(f"job {name} began after turn {said[known]}, its last checkpoint was of turn {turn}")

    def _wrong(self, what: str) -> None:
        text = f"run {self.counts.runs}, start {self.counts.starts}: {what}"
        print(text, file=sys.stderr, flush=True)  # whoever ends the suite early has seen it
        self.counts.wrong.append(text)


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 65536)


@contextlib.contextmanager
def small_disk(folder: Path, num_bytes: int = DISK_BYTES) -> Iterator[Path | None]:
    """Mount a small file system for the block; None where that is not allowed, and say so."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        print("no disk is filled: that needs the right to mount a small one (root)")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@contextlib.contextmanager
def network() -> Iterator[ShapedLinks | None]:
    """Build a network of a namespace for each worker for the block; None where that is not allowed, and say why."""
    if (why := why_not()) is not None:
        print(f"no links go down: {why}")
        yield None
        return
    with shaped_links(NUM_WORKERS, rate=None) as links:
        yield links


def new_seed() -> int:
    """Return a seed to record."""
    return int(time.time_ns() % 1_000_000)
