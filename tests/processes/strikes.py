"""Processes of jobs, struck at random moments of their lives: killed, crashed, ended by themselves, out of memory.

``python -m tests.processes.strikes --num 50 --seed 19`` strikes so many, ten in a run. Every job has to end, and with
the weights of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
from tests.distributed.command import LONGEST_SECONDS
from tests.processes.command import job_processes, place_in, train_words, trained_alone, weights

STRIKES = {
    "SIGKILL": signal.SIGKILL,
    "segfault": signal.SIGSEGV,
    "abort": signal.SIGABRT,
    "os._exit": signal.SIGUSR1,  # `train_script` does so
    "out of memory": signal.SIGUSR2,
}
STRIKES_A_RUN = 10
STEPS, PAUSE, LONGEST_PAUSE_SECONDS = 40, 0.02, 0.5


def strike(launcher: subprocess.Popen[str], num: int, chance: random.Random) -> list[str]:
    """Strike so many processes of jobs, each at a random moment; return how, less if the run has ended before."""
    struck: list[str] = []
    deadline = time.monotonic() + LONGEST_SECONDS
    while len(struck) < num and launcher.poll() is None and time.monotonic() < deadline:
        with suppress(subprocess.TimeoutExpired):
            launcher.wait(timeout=chance.uniform(0.0, LONGEST_PAUSE_SECONDS))
        if found := job_processes(launcher):
            how = chance.choice(list(STRIKES))
            with suppress(psutil.Error):
                chance.choice(found).send_signal(STRIKES[how])
                struck.append(how)
    return struck


def struck_run(folder: Path, num: int, seed: int) -> tuple[list[str], list[str]]:
    """Strike a run of three jobs so many times; return how, and what is wrong with what came of it.

    Every job saves and may be tried again: all of them have to end, and with the uninterrupted run's bits.
    """
    expected = trained_alone(folder / "alone", steps=STEPS)
    with place_in(folder / "run") as place:
        jobs = {name: {"steps": STEPS, "pause": PAUSE, "save": 3} for name in ("one", "two", "three")}
        process = place.start(*train_words(place, jobs, f"--max-job-failures={num}"))
        struck = strike(process, num, random.Random(seed))
        status, out, err = place.ended(process)
        if status != 0:
            return struck, [f"status {status}\n{out}\n{err}"]
        return struck, [f"{name}'s weights differ" for name in jobs if weights(place.path / name) != expected]


def main() -> int:
    """Strike; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.strikes", description=__doc__.split("\n")[0])
    parser.add_argument("--num", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="motet-strikes-") as folder:
        for run in range(-(-options.num // STRIKES_A_RUN)):
            num = min(options.num - counts.total(), STRIKES_A_RUN)
            struck, found = struck_run(Path(folder, str(run)), num, options.seed + run)
            counts.update(struck)
            wrong += [f"run {run}: {text}" for text in found]
    report = ", ".join(f"{number} {how}" for how, number in sorted(counts.items()))
    print(f"seed {options.seed}: {counts.total()} strikes ({report}), wrong: {len(wrong)}", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
